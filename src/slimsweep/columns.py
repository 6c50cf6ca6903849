"""The column solve inside a block: remove or round weights from left to right, correcting those still to come."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slimsweep.grid import Grid


def solve_columns(
    weight: Float[Tensor, "out column"],
    keep: Bool[Tensor, "out column"],
    upper: Float[Tensor, "column column"],
    scale: Float[Tensor, " column"],
    pattern: tuple[int, int] | None = None,
    grid: Grid | None = None,
    groups: Int[Tensor, " column"] | None = None,
) -> Float[Tensor, "out column"]:
    """Remove the weights that `keep` leaves out, in place, and spread each error over the columns after it.

    With a grid the weights that stay are rounded to it when reached; `groups`: which of its groups a column is in.

    `upper` is the block of the inverse Hessian's factor that belongs to these columns. With a pattern (n, m)
    the mask of every m columns is chosen when the first of them is reached, by |weight| x `scale` of weights
    corrected so far; `keep` then holds what is eligible (False: zero already) and is overwritten with the choice.
    Returns the error of each removed or rounded weight in units of its column's diagonal, so that
    errors @ upper[these, later] is what later columns must lose.

    Source: arXiv:2301.00774, alg. 1, inner loop, and sec. 3.5; arXiv:2210.17323, alg. 1, is the same without removal.
        Rows are independent: threads do not change the result.
    """
    if weight.device.type != "cpu":
        return _solve_by_column(weight, keep, upper, scale, pattern, grid, groups)
    errors = torch.zeros_like(weight)
    factors, threads = upper.contiguous().numpy(), torch.get_num_threads()
    levels = torch.empty(weight.shape[0], 3, 0) if grid is None else _levels(grid)
    groups = torch.empty(0, dtype=torch.int64) if groups is None else groups.contiguous()
    ends = (0, 0) if grid is None else (grid.lowest, grid.highest)

    def solve(rows: slice) -> None:
        parts = (weight[rows].numpy(), keep[rows].numpy(), factors, scale.numpy(), errors[rows].numpy())
        _solve_rows(*parts, *(pattern or (0, 0)), levels[rows].numpy(), groups.numpy(), *map(np.float32, ends))

    bounds = [weight.shape[0] * part // threads for part in range(threads + 1)]
    if threads == 1:  # a worker of cores.side_by_side: the shared pool would make its neighbours wait for it
        solve(slice(None))
    else:
        list(_workers(threads).map(solve, map(slice, bounds, bounds[1:])))
    return errors


@functools.cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that sleep between calls: numba's own, which spin, fight those of torch for the same cores."""
    return ThreadPoolExecutor(threads)


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
@no_type_check
def _solve_rows(weight, keep, upper, scale, errors, kept, group, levels, groups, lowest, highest):
    rows, columns = weight.shape
    is_rounded = levels.shape[2] > 0
    for row in range(rows):
        # One-dimensional views, without which the innermost loop is not vectorised.
        weights, stays, lost = weight[row], keep[row], errors[row]
        for column in range(columns):
            if group > 0 and column % group == 0:
                _choose(weights, stays, scale, column, min(column + group, columns), group - kept)
            if stays[column] and not is_rounded:
                continue
            goal = np.float32(0)
            if stays[column]:
                goal = _nearest(weights[column], levels[row], groups[column], lowest, highest)
            factors = upper[column]
            error = (weights[column] - goal) / factors[column]
            weights[column] = goal
            lost[column] = error
            for later in range(columns - column - 1):
                weights[column + 1 + later] -= error * factors[column + 1 + later]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _nearest(weight, levels, group, lowest, highest):
    """What Grid.codes and Grid.values make of a weight, to the last bit; of two levels equally near the even one."""
    scale, offset, minimum = levels[0, group], levels[1, group], levels[2, group]
    code = np.float32(np.rint((weight - minimum) / scale)) + offset
    return (min(max(code, lowest), highest) - offset) * scale + minimum


def _levels(grid: Grid) -> Float[Tensor, "out 3 group"]:
    """A grid's scales, offsets and minima (0 where it has none), row by row."""
    minimum = torch.zeros_like(grid.scale) if grid.minimum is None else grid.minimum
    return torch.stack([grid.scale, grid.offset, minimum], dim=1)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _choose(weights, stays, scale, start, stop, dropped):
    """Drop the lowest of a group, the first of equals first, until `dropped` are gone."""
    gone = 0
    for column in range(start, stop):
        if not stays[column]:
            gone += 1
    while gone < dropped:
        lowest, at = np.inf, -1
        for column in range(start, stop):
            score = abs(weights[column]) * scale[column]
            if stays[column] and (at < 0 or score < lowest):
                lowest, at = score, column
        stays[at] = False
        gone += 1


def _solve_by_column(
    weight: Float[Tensor, "out column"],
    keep: Bool[Tensor, "out column"],
    upper: Float[Tensor, "column column"],
    scale: Float[Tensor, " column"],
    pattern: tuple[int, int] | None,
    grid: Grid | None = None,
    groups: Int[Tensor, " column"] | None = None,
) -> Float[Tensor, "out column"]:
    """The same in torch, for devices that numba's CPU kernel does not reach."""
    errors = torch.zeros_like(weight)
    kept, group = pattern or (0, 0)
    for column in range(weight.shape[1]):
        if group and column % group == 0:
            these = slice(column, column + group)
            score = (weight[:, these].abs() * scale[these]).masked_fill(~keep[:, these], -1)
            gone = (~keep[:, these]).sum(dim=1, keepdim=True).clamp(min=group - kept)
            keep[:, these] = score.argsort(dim=1, stable=True).argsort(dim=1) >= gone
        this = slice(column, column + 1)
        level = weight[:, this] if grid is None else grid.part(groups[this]).nearest(weight[:, this])
        goal = torch.where(keep[:, this], level, 0)
        errors[:, this] = (weight[:, this] - goal) / upper[column, column]
        weight[:, this] = goal
        weight[:, column + 1 :].addr_(errors[:, column], upper[column, column + 1 :], alpha=-1)
    return errors


def knob_faults(block_columns: Any, damping_fraction: Any) -> list[str]:
    """What is wrong with the knobs of a solve by columns."""
    faults = []
    if isinstance(block_columns, bool) or not isinstance(block_columns, int) or block_columns < 1:
        faults.append(f"block_columns={block_columns!r}: give a whole number of at least 1")
    is_number = isinstance(damping_fraction, float | int) and not isinstance(damping_fraction, bool)
    if not is_number or not 0 < damping_fraction <= 1:
        faults.append(f"damping_fraction={damping_fraction!r}: give a number in (0, 1], a fraction and not percent")
    return faults
