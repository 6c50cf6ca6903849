"""The column solve on GPUs: Triton's kernel where it compiles and agrees, else a loop over columns in torch."""

import dataclasses
import functools
import logging
from collections.abc import Callable

import torch

from slimsweep.numerics.column_solver.block import ColumnBlock
from slimsweep.numerics.uniform_grid import fit

log = logging.getLogger(__name__)

Solve = Callable[[ColumnBlock], None]


@functools.cache
def gpu_solve(device: torch.device) -> Solve:
    """The kernel where it compiles and agrees with the loop over columns on a small layer, else that loop."""
    try:
        from slimsweep.numerics.column_solver import gpu_kernel

        if agree(gpu_kernel.solve, solve_by_column, device):
            return gpu_kernel.solve
        reason = "it gives other numbers"
    except torch.cuda.OutOfMemoryError:  # which says nothing of the kernel
        raise
    except Exception as error:  # of a compiler and a driver, which have errors of their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    log.warning("columns are solved by a loop in torch, many times slower: Triton's kernel cannot be used (%s)", reason)
    return solve_by_column


def agree(first: Solve, second: Solve, device: torch.device) -> bool:
    """Whether two solves give a small layer the same to rounding: pruned, in a pattern, and rounded to a grid."""
    chance, width = torch.Generator().manual_seed(0), 24
    weight = torch.randn(width, 40, generator=chance).to(device)
    upper = (0.1 * torch.randn(width, width, generator=chance)).triu(1).to(device) + torch.eye(width, device=device)
    grid, everything = fit(weight.T, "asymmetric", 3, 8), torch.ones_like(weight, dtype=torch.bool)
    block = ColumnBlock(weight, weight > 0, torch.zeros_like(weight), upper, upper.diagonal())
    blocks = (
        block,
        dataclasses.replace(block, keep=everything, pattern=(2, 4)),
        dataclasses.replace(block, keep=everything, grid=grid, groups=grid.group_of(width)),
    )
    return all(_same(solved(first, block), solved(second, block)) for block in blocks)


def solved(solve: Solve, block: ColumnBlock) -> ColumnBlock:
    """A block as a solve leaves it; the given one stays as it is."""
    written = ("weight_t", "keep", "errors")
    copy = dataclasses.replace(block, **{name: getattr(block, name).clone() for name in written})
    solve(copy)
    return copy


def _same(first: ColumnBlock, second: ColumnBlock) -> bool:
    return torch.equal(first.keep, second.keep) and all(
        torch.allclose(getattr(first, name), getattr(second, name), atol=1e-4) for name in ("weight_t", "errors")
    )


def solve_by_column(block: ColumnBlock) -> None:
    """column_solver.solve_columns in torch: what both kernels are checked against."""
    weight_t, keep, upper = block.weight_t, block.keep, block.upper
    kept, group = block.pattern or (0, 0)
    for column in range(len(weight_t)):
        if group and column % group == 0:
            these = slice(column, column + group)
            score = (weight_t[these].abs() * block.scale[these, None]).masked_fill(~keep[these], -1)
            dropped = (~keep[these]).sum(dim=0).clamp(min=group - kept)
            keep[these] = score.argsort(dim=0, stable=True).argsort(dim=0) >= dropped
        if block.grid is None:
            goal = torch.where(keep[column], weight_t[column], 0)
            lost = torch.where(keep[column], 0, weight_t[column] / upper[column, column])
        else:
            level = block.grid.part(block.groups[column : column + 1]).fake_quantize(weight_t[column, :, None])[:, 0]
            goal = torch.where(keep[column], level, 0)
            lost = (weight_t[column] - goal) / upper[column, column]
        block.errors[column], weight_t[column] = lost, goal
        weight_t[column + 1 :].addr_(upper[column, column + 1 :], lost, alpha=-1)
