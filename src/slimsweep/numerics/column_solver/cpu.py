"""The column solve inside a block on a CPU, compiled: LANES rows go through the columns together."""

from typing import no_type_check

import numba
import numpy as np

from slimsweep.numerics.column_solver.block import LANES

NEAR = 4
"""Columns whose errors go to later columns together; eight at once gain nothing more."""


# Loops over LANES are innermost and of constant length: that is what the compiler turns into vectors.
@numba.njit(nogil=True, cache=True, error_model="numpy")
@no_type_check
def solve_rows(first, last, weight, keep, upper, scale, errors, kept, group, levels, groups, lowest, highest):
    columns = weight.shape[0]
    step = NEAR if group == 0 else group * max(NEAR // group, 1)  # a group is chosen from weights that owe nothing
    # Lanes beyond the last row are solved too, and thrown away.
    tile, lost = np.zeros((columns, LANES), np.float32), np.zeros((columns, LANES), np.float32)
    stays, group_levels, rank = (
        np.ones((columns, LANES), np.bool_),
        np.ones((3, LANES), np.float32),
        np.zeros(LANES, np.int32),
    )
    for start in range(first, last, LANES):
        rows = min(LANES, last - start)
        for column in range(columns):
            for row in range(rows):
                tile[column, row] = weight[column, start + row]
            for row in range(rows):
                stays[column, row] = keep[column, start + row]
        current = -1
        for column in range(columns):
            if group > 0 and column % group == 0:
                _choose(tile, stays, scale, column, min(column + group, columns), group - kept, lost, rank)
            if levels.shape[1] == 0:
                _remove(tile[column], stays[column], lost[column], upper[column, column])
            else:
                if groups[column] != current:
                    current = groups[column]
                    for row in range(rows):
                        for part in range(3):
                            group_levels[part, row] = levels[part, current, start + row]
                _round(tile[column], stays[column], lost[column], upper[column, column], group_levels, lowest, highest)
            near = column - column % step
            end = min(near + step, columns)
            _correct(tile, lost[column], upper[column], column + 1, end)
            if column + 1 == end:
                _carry(tile, lost, upper, near, end)
        for column in range(columns):
            for row in range(rows):
                weight[column, start + row] = tile[column, row]
            for row in range(rows):
                errors[column, start + row] = lost[column, row]
            if group > 0:
                for row in range(rows):
                    keep[column, start + row] = stays[column, row]


@numba.njit(nogil=True, cache=True, error_model="numpy")
@no_type_check
def _remove(weights, stays, lost, diagonal):
    for row in range(LANES):
        lost[row] = np.float32(0) if stays[row] else weights[row] / diagonal  # not inf - inf of one that stays
        weights[row] = weights[row] if stays[row] else np.float32(0)


@numba.njit(nogil=True, cache=True, error_model="numpy")
@no_type_check
def _round(weights, stays, lost, diagonal, levels, lowest, highest):
    """Grid.fake_quantize of weights, to the last bit; of two levels equally near the even one."""
    scales, offsets, minima = levels[0], levels[1], levels[2]
    for row in range(LANES):
        code = np.rint((weights[row] - minima[row]) / scales[row]) + offsets[row]
        level = (min(max(code, lowest), highest) - offsets[row]) * scales[row] + minima[row]
        goal = level if stays[row] else np.float32(0)
        lost[row] = (weights[row] - goal) / diagonal
        weights[row] = goal


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
@no_type_check
def _correct(tile, error, factors, start, stop):
    """Carry the errors of a column to those from `start` to `stop`."""
    for later in range(start, stop):
        weights, factor = tile[later], factors[later]
        for row in range(LANES):
            weights[row] -= error[row] * factor


# Reading and writing a weight takes longer than its product with one error, so here it is corrected for NEAR at once.
# The order of its corrections is that of `_correct`: the result is the same to the last bit.
@numba.njit(nogil=True, cache=True, fastmath={"contract"})
@no_type_check
def _carry(tile, lost, upper, near, end):
    """Carry the errors of the columns from `near` to `end` to all from `end` on."""
    columns = tile.shape[0]
    together = (end - near) // NEAR * NEAR
    for first in range(near, near + together, NEAR):
        error0, error1, error2, error3 = lost[first], lost[first + 1], lost[first + 2], lost[first + 3]
        for later in range(end, columns):
            weights, factor0, factor1 = tile[later], upper[first, later], upper[first + 1, later]
            factor2, factor3 = upper[first + 2, later], upper[first + 3, later]
            for row in range(LANES):
                two = weights[row] - error0[row] * factor0 - error1[row] * factor1
                weights[row] = two - error2[row] * factor2 - error3[row] * factor3
    for column in range(near + together, end):
        _correct(tile, lost[column], upper[column], end, columns)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _choose(tile, stays, scale, start, stop, dropped, scores, rank):
    """Drop the `dropped` lowest of a group: zeros before all, the first of equals first. `scores`: overwritten."""
    for column in range(start, stop):
        score, weights, stay, factor = scores[column], tile[column], stays[column], scale[column]
        for row in range(LANES):
            value = abs(weights[row]) * factor
            value = np.float32(np.inf) if value != value else value  # NaN stays, as in an order of torch
            score[row] = value if stay[row] else np.float32(-1)
    for column in range(start, stop):
        rank[:] = 0
        score, stay = scores[column], stays[column]
        for other in range(start, stop):
            beside, first = scores[other], other < column
            for row in range(LANES):
                rank[row] += beside[row] < score[row] or (first and beside[row] == score[row])
        for row in range(LANES):
            stay[row] = stay[row] and rank[row] >= dropped
