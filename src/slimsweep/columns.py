"""The column solve inside a block of columns: remove weights from left to right, correcting those still to come."""

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
    pattern: tuple[int, int] | None = None,
) -> Float[Tensor, "out column"]:
    """Remove the weights that `keep` leaves out, in place, and spread each error over the columns to its right.

    `upper` is the block of the inverse Hessian's factor that belongs to these columns. With a pattern (n, m), the mask
    of every m columns is chosen when the first of them is reached, from weights corrected so far; `keep` then holds
    the weights that are still eligible (False: zero already) and is overwritten with the choice. Returns each
    removed weight's error in units of its column's diagonal: errors @ upper[these, later] corrects later columns.

    Source: arXiv:2301.00774, alg. 1, inner loop. Rows are independent, so the result does not depend on threads.
    """
    if weight.device.type == "cpu":
        errors = np.zeros(weight.shape, dtype=np.float32)
        kept, group = pattern or (0, 0)
        _solve_rows(weight.numpy(), keep.numpy(), upper.contiguous().numpy(), errors, kept, group)
        return torch.from_numpy(errors)
    return _solve_by_column(weight, keep, upper, pattern)


@numba.njit(parallel=True, cache=True, fastmath={"contract"})
@no_type_check
def _solve_rows(weight, keep, upper, errors, kept, group):
    rows, columns = weight.shape
    for row in numba.prange(rows):
        for column in range(columns):
            if group > 0 and column % group == 0:
                _choose(weight[row], keep[row], upper, column, min(column + group, columns), group - kept)
            if keep[row, column]:
                continue
            error = weight[row, column] / upper[column, column]
            weight[row, column] = 0.0
            errors[row, column] = error
            if error != 0.0:
                for later in range(column + 1, columns):
                    weight[row, later] -= error * upper[column, later]


@numba.njit(cache=True)
@no_type_check
def _choose(weight, keep, upper, start, stop, dropped):
    """Drop the lowest of a group until `dropped` are gone; what is not eligible is gone already."""
    gone = 0
    for column in range(start, stop):
        if not keep[column]:
            gone += 1
    while gone < dropped:
        lowest, at = np.inf, -1
        for column in range(start, stop):
            score = abs(weight[column]) / upper[column, column]
            if keep[column] and (at < 0 or score < lowest):
                lowest, at = score, column
        keep[at] = False
        gone += 1


def _solve_by_column(
    weight: Float[Tensor, "out column"],
    keep: Bool[Tensor, "out column"],
    upper: Float[Tensor, "column column"],
    pattern: tuple[int, int] | None,
) -> Float[Tensor, "out column"]:
    """The same on any device, one column after the other."""
    errors = torch.zeros_like(weight)
    kept, group = pattern or (0, 0)
    for column in range(weight.shape[1]):
        if group and column % group == 0:
            these = slice(column, column + group)
            score = (weight[:, these].abs() / upper.diagonal()[these]).masked_fill(~keep[:, these], -1)
            gone = (~keep[:, these]).sum(dim=1, keepdim=True).clamp(min=group - kept)
            rank = score.argsort(dim=1, stable=True).argsort(dim=1)
            keep[:, these] = rank >= gone
        error = torch.where(keep[:, column], 0, weight[:, column] / upper[column, column])
        weight[:, column] = torch.where(keep[:, column], weight[:, column], 0)
        errors[:, column] = error
        weight[:, column + 1 :].addr_(error, upper[column, column + 1 :], alpha=-1)
    return errors
