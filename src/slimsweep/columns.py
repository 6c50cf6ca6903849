"""The column solve inside a block: remove weights from left to right, correcting those still to come."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def solve_columns(
    weight: Float[Tensor, "out column"],
    keep: Bool[Tensor, "out column"],
    upper: Float[Tensor, "column column"],
    scale: Float[Tensor, " column"],
    pattern: tuple[int, int] | None = None,
) -> Float[Tensor, "out column"]:
    """Remove the weights that `keep` leaves out, in place, and spread each error over the columns after it.

    `upper` is the block of the inverse Hessian's factor that belongs to these columns. With a pattern (n, m)
    the mask of every m columns is chosen when the first of them is reached, by |weight| x `scale` of weights
    corrected so far; `keep` then holds what is eligible (False: zero already) and is overwritten with the choice.
    Returns the error of each removed weight in units of its column's diagonal, so that
    errors @ upper[these, later] is what later columns must lose.

    Source: arXiv:2301.00774, alg. 1, inner loop. Rows are independent: threads do not change the result.
    """
    if weight.device.type != "cpu":
        return _solve_by_column(weight, keep, upper, scale, pattern)
    errors = torch.zeros_like(weight)
    factors, threads = upper.contiguous().numpy(), torch.get_num_threads()

    def solve(rows: slice) -> None:
        parts = (weight[rows].numpy(), keep[rows].numpy(), factors, scale.numpy(), errors[rows].numpy())
        _solve_rows(*parts, *(pattern or (0, 0)))

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
def _solve_rows(weight, keep, upper, scale, errors, kept, group):
    rows, columns = weight.shape
    for row in range(rows):
        # One-dimensional views, without which the innermost loop is not vectorised.
        weights, stays, lost = weight[row], keep[row], errors[row]
        for column in range(columns):
            if group > 0 and column % group == 0:
                _choose(weights, stays, scale, column, min(column + group, columns), group - kept)
            if stays[column]:
                continue
            factors = upper[column]
            error = weights[column] / factors[column]
            weights[column] = np.float32(0)
            lost[column] = error
            for later in range(columns - column - 1):
                weights[column + 1 + later] -= error * factors[column + 1 + later]


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
        errors[:, column] = torch.where(keep[:, column], 0, weight[:, column] / upper[column, column])
        weight[:, column] = torch.where(keep[:, column], weight[:, column], 0)
        weight[:, column + 1 :].addr_(errors[:, column], upper[column, column + 1 :], alpha=-1)
    return errors
