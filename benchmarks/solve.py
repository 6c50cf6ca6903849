"""The column solve of SparseGPT and GPTQ beside the plain loop over columns in torch, in one process.

    .venv/bin/python benchmarks/solve.py [--device cuda] [--repeats 5]

Both walk blocks of 128 columns, choose a block's mask over all rows, correct the later columns of the block after each
column, and all later blocks in one product. The plain form runs at the better of one and all threads.
"""

import argparse
from collections.abc import Callable
from functools import partial

import measuring
import torch
from torch import Tensor

from slimsweep import grid
from slimsweep.grid import Grid
from slimsweep.hessian import InverseFactor, factor_inverse, gram
from slimsweep.techniques.gptq import GPTQ, OrderedFactor
from slimsweep.techniques.sparsegpt import SparseGPT

SHAPES = ((1536, 576), (576, 1536))
BLOCK = 128
IN_A_ROW = 5
"""Solves of one turn; a job solves hundreds of layers one after another."""


def plain_sparsegpt(weight: Tensor, prepared: InverseFactor, ratio: float) -> Tensor:
    """arXiv:2301.00774, algorithm 1, with torch operations only."""
    weight, upper = weight.clone(), prepared.upper
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, factor = weight[:, start:stop], upper[start:stop, start:stop]
        score = (block.abs() * prepared.scale[start:stop]).flatten()
        mask = torch.ones_like(score, dtype=torch.bool)
        mask[score.argsort(stable=True)[: int(ratio * score.numel())]] = False
        mask, errors = mask.view_as(block), torch.zeros_like(block)
        for column in range(stop - start):
            kept = torch.where(mask[:, column], block[:, column], 0)
            errors[:, column] = (block[:, column] - kept) / factor[column, column]
            block[:, column] = kept
            block[:, column + 1 :] -= errors[:, column : column + 1] @ factor[column : column + 1, column + 1 :]
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


def plain_gptq(weight: Tensor, upper: Tensor, levels: Grid) -> Tensor:
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
    plain: Callable[[], Tensor],
    ours: Callable[[], Tensor],
    repeats: int,
    weight_of: Callable[[Tensor], Tensor],
) -> str:
    """A row of the table; the results must agree first. `weight_of`: the weight that ours stands for."""
    expected, found = plain(), weight_of(ours())
    same = ((expected == 0) == (found == 0)).float().mean()
    assert same > 0.999, f"masks agree in {same:.4%} only"
    distance = float((expected - found).norm() / expected.norm())
    assert distance < 0.02, f"{distance} apart"  # one tie that falls the other way moves its row
    threads = torch.get_num_threads()
    seconds = measuring.alternate({"one": at(1, plain), "all": plain, "ours": ours}, repeats, in_a_row=IN_A_ROW)
    beside = min(seconds["one"], seconds["all"], key=lambda values: sorted(values)[len(values) // 2])
    return measuring.line(
        f"{what}, plain loop at the better of 1 and {threads} threads", beside, seconds["ours"], ">= 10x"
    )


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
        levels = grid.fit(weight, "asymmetric", 4, 64)
        ordered = OrderedFactor(torch.arange(columns, device=given.device), prepared)  # not by activations, as plain
        pairs = {
            f"SparseGPT at 0.5, {rows}x{columns}": (
                partial(plain_sparsegpt, weight, prepared, 0.5),
                partial(SparseGPT(ratio=0.5).compress_layer, weight, prepared),
                lambda solved: solved,
            ),
            f"GPTQ at 4 bits, {rows}x{columns}": (
                partial(plain_gptq, weight, prepared.upper, levels),
                partial(GPTQ(bits=4, group_size=64).codes, weight, ordered, levels),
                levels.values,
            ),
        }
        for what, (plain, ours, weight_of) in pairs.items():
            print(compare(what, plain, ours, given.repeats, weight_of), flush=True)


if __name__ == "__main__":
    main()
