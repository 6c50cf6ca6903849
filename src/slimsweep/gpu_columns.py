"""The column solve on GPUs: Triton's kernel where it compiles and agrees, else a loop over columns in torch."""

import functools
import logging
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slimsweep.grid import Grid

log = logging.getLogger(__name__)


def solve_in_kernel(
    turned: Float[Tensor, "column out"],
    keep: Bool[Tensor, "column out"],
    errors: Float[Tensor, "column out"],
    upper: Float[Tensor, "column column"],
    scale: Float[Tensor, " column"],
    pattern: tuple[int, int] | None = None,
    grid: Grid | None = None,
    groups: Int[Tensor, " column"] | None = None,
) -> None:
    """The same in one kernel of Triton's."""
    from slimsweep import column_kernel

    if pattern and pattern[1] > column_kernel.WIDTH:
        solve_by_column(turned, keep, errors, upper, scale, pattern, grid, groups)
        return
    levels = None if grid is None else grid.planes
    ends = (0, 0) if grid is None else (grid.lowest, grid.highest)
    column_kernel.solve(turned, keep, errors, upper, scale, pattern, levels, groups, ends)


@functools.cache
def gpu_solve(device: torch.device) -> Callable[..., None]:
    """The kernel where it compiles and agrees with the loop over columns on a small layer, else that loop."""
    try:
        if agree(solve_in_kernel, solve_by_column, device):
            return solve_in_kernel
        reason = "it gives other numbers"
    except Exception as error:  # of a compiler and a driver, which have errors of their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    log.warning("columns are solved by a loop in torch, many times slower: Triton's kernel cannot be used (%s)", reason)
    return solve_by_column


def agree(one: Callable[..., None], other: Callable[..., None], device: torch.device) -> bool:
    """Whether two solves give the same to rounding, pruning a small layer in a pattern and without."""
    chance, width = torch.Generator().manual_seed(0), 24
    weight = torch.randn(width, 40, generator=chance).to(device)
    upper = (0.1 * torch.randn(width, width, generator=chance)).triu(1).to(device) + torch.eye(width, device=device)
    for pattern in (None, (2, 4)):
        keep = (weight > 0) if pattern is None else torch.ones_like(weight, dtype=torch.bool)
        results = []
        for solve in (one, other):
            turned, stays, errors = weight.clone(), keep.clone(), torch.zeros_like(weight)
            solve(turned, stays, errors, upper, upper.diagonal(), pattern)
            results += [turned, stays.float(), errors]
        if not all(torch.allclose(mine, its, atol=1e-4) for mine, its in zip(results[:3], results[3:], strict=True)):
            return False
    return True


def solve_by_column(
    turned: Float[Tensor, "column out"],
    keep: Bool[Tensor, "column out"],
    errors: Float[Tensor, "column out"],
    upper: Float[Tensor, "column column"],
    scale: Float[Tensor, " column"],
    pattern: tuple[int, int] | None = None,
    grid: Grid | None = None,
    groups: Int[Tensor, " column"] | None = None,
) -> None:
    """The same in torch: what both kernels are checked against."""
    kept, group = pattern or (0, 0)
    for column in range(turned.shape[0]):
        if group and column % group == 0:
            these = slice(column, column + group)
            score = (turned[these].abs() * scale[these, None]).masked_fill(~keep[these], -1)
            gone = (~keep[these]).sum(dim=0).clamp(min=group - kept)
            keep[these] = score.argsort(dim=0, stable=True).argsort(dim=0) >= gone
        if grid is None:
            goal = torch.where(keep[column], turned[column], 0)
            lost = torch.where(keep[column], 0, turned[column] / upper[column, column])
        else:
            level = grid.part(groups[column : column + 1]).nearest(turned[column, :, None])[:, 0]
            goal = torch.where(keep[column], level, 0)
            lost = (turned[column] - goal) / upper[column, column]
        errors[column], turned[column] = lost, goal
        turned[column + 1 :].addr_(upper[column, column + 1 :], lost, alpha=-1)
