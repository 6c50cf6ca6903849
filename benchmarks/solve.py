"""The column solve of SparseGPT and GPTQ beside the plain loop over columns in torch, in one process.

    .venv/bin/python benchmarks/solve.py [--device cuda] [--repeats 5]

All walk blocks of 128 columns, choose a block's mask over all rows, correct the later columns of the block after each
column, and all later blocks in one product. The published loop sorts a block's scores, as its authors' code does; the
tuned one is what torch can do for it: scores are selected, not sorted, and a column's weights lie side by side. Both
run at the better of one and all threads.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import measuring
import torch
from torch import Tensor

from slimsweep.numerics import uniform_grid
from slimsweep.numerics.hessian import InverseFactor, factor_inverse, gram
from slimsweep.numerics.uniform_grid import Grid
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.quantization.gptq import GPTQ, OrderedFactor

SHAPES = ((1536, 576), (576, 1536))
BLOCK = 128
IN_A_ROW = 5
"""Solves of one turn; a job solves hundreds of layers one after another."""
Becomes = Callable[[int, Tensor], Tensor]
"""What the weights of a column of a block become."""


def published_sparsegpt(weight: Tensor, prepared: InverseFactor, ratio: float) -> Tensor:
    """arXiv:2301.00774, algorithm 1, with torch operations only."""
    weight, upper = weight.clone(), prepared.upper
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, factor = weight[:, start:stop], upper[start:stop, start:stop]
        score = block.abs() * prepared.scale[start:stop]
        mask = score > score.flatten().sort().values[int(ratio * score.numel()) - 1]
        errors = torch.zeros_like(block)
        for column in range(stop - start):
            kept = torch.where(mask[:, column], block[:, column], 0)
            errors[:, column] = (block[:, column] - kept) / factor[column, column]
            block[:, column] = kept
            block[:, column + 1 :] -= errors[:, column : column + 1] @ factor[column : column + 1, column + 1 :]
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


def published_gptq(weight: Tensor, upper: Tensor, levels: Grid) -> Tensor:
    """arXiv:2210.17323, algorithm 1, without act-order, with torch operations only."""
    weight, groups = weight.clone(), levels.group_of(weight.shape[1])
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, factor = weight[:, start:stop], upper[start:stop, start:stop]
        errors = torch.zeros_like(block)
        for column in range(stop - start):
            group = groups[start + column]
            scale, zero = levels.scale[:, group], levels.zero[:, group]
            codes = ((block[:, column] / scale).round() + zero).clamp(levels.lowest, levels.highest)
            kept = (codes - zero) * scale
            errors[:, column] = (block[:, column] - kept) / factor[column, column]
            block[:, column] = kept
            block[:, column + 1 :] -= errors[:, column : column + 1] @ factor[column : column + 1, column + 1 :]
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


def tuned_loop(weight: Tensor, upper: Tensor, choose: Callable[[int, Tensor], Becomes]) -> Tensor:
    """Either algorithm on the weight_t weight; `choose` is given a block and its first column."""
    weight_t = weight.T.contiguous()
    for start in range(0, len(weight_t), BLOCK):
        stop = min(start + BLOCK, len(weight_t))
        block, factor = weight_t[start:stop], upper[start:stop, start:stop]
        errors, becomes = torch.empty_like(block), choose(start, block)
        for column in range(stop - start):
            kept = becomes(column, block[column])
            torch.div(block[column] - kept, factor[column, column], out=errors[column])
            block[column] = kept
            block[column + 1 :].addr_(factor[column, column + 1 :], errors[column], alpha=-1)
        weight_t[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return weight_t.T


def tuned_sparsegpt(weight: Tensor, prepared: InverseFactor, ratio: float) -> Tensor:
    """Algorithm 1 of SparseGPT by `tuned_loop`."""

    def choose(start: int, block: Tensor) -> Becomes:
        score = block.abs() * prepared.scale[start : start + len(block), None]
        mask = score > score.flatten().kthvalue(int(ratio * score.numel())).values
        return lambda column, values: values * mask[column]

    return tuned_loop(weight, prepared.upper, choose)


def tuned_gptq(weight: Tensor, upper: Tensor, levels: Grid) -> Tensor:
    """Algorithm 1 of GPTQ by `tuned_loop`."""
    groups = levels.group_of(weight.shape[1]).tolist()
    scales, zeros = levels.scale.T.contiguous(), levels.zero.T.contiguous()

    def choose(start: int, _block: Tensor) -> Becomes:
        def becomes(column: int, values: Tensor) -> Tensor:
            scale, zero = scales[groups[start + column]], zeros[groups[start + column]]
            codes = (values / scale).round_().add_(zero).clamp_(levels.lowest, levels.highest)
            return codes.sub_(zero).mul_(scale)

        return becomes

    return tuned_loop(weight, upper, choose)


def at(threads: int, run: Callable[[], object]) -> Callable[[], object]:
    """A run with so many threads, which are set back after it."""

    def wrapped() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return wrapped


def compare(
    what: str,
    plain: dict[str, Callable[[], Tensor]],
    ours: Callable[[], Tensor],
    repeats: int,
    weight_of: Callable[[Tensor], Tensor],
) -> list[str]:
    """A row for each plain form; the results must agree first. `weight_of`: the weight that ours stands for."""
    found, threads = weight_of(ours()), torch.get_num_threads()
    runs: dict[str, Callable[[], object]] = {"ours": ours}
    for form, run in plain.items():
        expected = run()
        same = ((expected == 0) == (found == 0)).float().mean()
        assert same > 0.999, f"masks agree in {same:.4%} only"
        distance = float((expected - found).norm() / expected.norm())
        assert distance < 0.02, f"{distance} apart"  # one tie that falls the other way moves its row
        runs |= {f"{form} one": at(1, run), f"{form} all": run}
    seconds = measuring.alternate(runs, repeats, in_a_row=IN_A_ROW)
    return [
        measuring.line(
            f"{what}, {form} loop at the better of 1 and {threads} threads",
            min(seconds[f"{form} one"], seconds[f"{form} all"], key=statistics.median),
            seconds["ours"],
            10 if form == "published" else None,
        )
        for form in plain
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    print(measuring.HEAD)
    for rows, columns in SHAPES:
        chance = torch.Generator().manual_seed(0)
        mixed = torch.randn(columns, columns, generator=chance) / columns**0.5
        inputs = torch.randn(4096, columns, generator=chance) @ (mixed + torch.eye(columns))
        weight = torch.randn(rows, columns, generator=chance).to(given.device)
        prepared = factor_inverse(gram(inputs.to(given.device)), 0.01)
        levels = uniform_grid.fit(weight, "asymmetric", 4, 64)
        ordered = OrderedFactor(torch.arange(columns, device=given.device), prepared)  # not by activations, as plain
        pairs = {
            f"SparseGPT at 0.5, {rows}x{columns}": (
                {
                    "published": partial(published_sparsegpt, weight, prepared, 0.5),
                    "tuned": partial(tuned_sparsegpt, weight, prepared, 0.5),
                },
                partial(SparseGPT(ratio=0.5).compress_layer, weight, prepared),
                lambda solved: solved,
            ),
            f"GPTQ at 4 bits, {rows}x{columns}": (
                {
                    "published": partial(published_gptq, weight, prepared.upper, levels),
                    "tuned": partial(tuned_gptq, weight, prepared.upper, levels),
                },
                partial(GPTQ(bits=4, group_size=64).codes, weight, ordered, levels),
                levels.values,
            ),
        }
        for what, (plain, ours, weight_of) in pairs.items():
            print("\n".join(compare(what, plain, ours, given.repeats, weight_of)), flush=True)


if __name__ == "__main__":
    main()
