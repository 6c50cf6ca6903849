"""Weighted k-means in one dimension, for many rows: a few levels that stand for the numbers of each row.

In one dimension the best clusters are neighbours in sorted order, so a clustering is a list of bounds:

    sorted values   1.0 1.1 | 2.0 2.1 2.3 | 5.0        three levels: the weighted means of the three parts

Running sums of w, w x and w x^2 give the loss of any part in constant time. Up to EXACT_LEVELS levels dynamic
programming finds the best bounds: the best split of the first j values into q parts follows from the splits into
q - 1. The best last bound never moves left as j grows, so divide and conquer halves the range of its candidates.
With more levels Lloyd's algorithm moves the bounds, from a start at equal shares of the cube root of the density.
"""

from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EXACT_LEVELS = 16
"""Up to so many levels the optimum is found; the search takes time in proportion to them."""
LEAST_IMPORTANCE = 1e-6
ANCHOR = 1e6
"""Importance of all anchored values of a row together; larger, sums would lose the least of the others."""
ROUNDS = 100
"""Most rounds of Lloyd's algorithm where there are more levels."""


def row_levels(
    values: Float[Tensor, "row value"],
    importance: Float[Tensor, "row value"],
    counted: Bool[Tensor, "row value"],
    counts: Int[Tensor, " row"],
    most: int,
    anchored: Bool[Tensor, "row value"] | None = None,
) -> Float[Tensor, "row level"]:
    """For each row the levels, ascending, that lose least in sum(importance x (value - nearest level)^2).

    Only the `counted` values matter. Of these the `anchored` ones, all equal, weigh so much that a level lies on them.
    Row i gets counts[i] <= `most` levels, and its last level is repeated to fill `most` columns. A row with fewer
    distinct values gets these values, an empty row gets zeros. Up to EXACT_LEVELS levels are the optimum, more are a
    local one. An importance below LEAST_IMPORTANCE of its row's mean is raised to that. Sums cannot hold less, and
    values of importance 0 need a level too.

    Source: Wang and Song, Ckmeans.1d.dp, The R Journal 3(2), 2011, with divide and conquer as in later versions of
        their package. An optimal cluster is a run of the sorted values, so dynamic programming over the first j values
        finds the optimum. More levels: Lloyd's algorithm. Its start has the density of levels that is best for many
        levels, the cube root of the weighted density (Panter and Dite, Proc. IRE 39, 1951).
    """
    free = counted if anchored is None else counted & ~anchored
    weights = importance.double().masked_fill(~free, 0)
    mean = weights.sum(dim=1, keepdim=True) / free.sum(dim=1, keepdim=True)
    weights = torch.where(mean > 0, weights / mean, 1.0).clamp(min=LEAST_IMPORTANCE).masked_fill(~counted, 0)
    if anchored is not None:
        anchored = anchored & counted
        weights = torch.where(anchored, ANCHOR / anchored.sum(dim=1, keepdim=True), weights)
    ascending, order = values.cpu().sort(dim=1)
    centres = np.zeros((values.shape[0], most), dtype=np.float32)
    _row_levels(ascending.numpy(), weights.cpu().gather(1, order).numpy(), counts.cpu().numpy(), centres, EXACT_LEVELS)
    return torch.from_numpy(centres).to(values.device)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _row_levels(values, importance, counts, centres, exact_levels):
    rows, columns = values.shape
    distinct = np.empty(columns)
    # Sums of importance, importance x value and importance x value^2 over all distinct values before.
    sums = np.empty((3, columns + 1))
    for row in range(rows):
        size, levels = _accumulate(values[row], importance[row], distinct, sums), counts[row]
        if size == 0 or levels == 0:
            continue
        if size <= levels:
            bounds = np.arange(size + 1)
        elif levels <= exact_levels:
            bounds = _best_bounds(sums, size, levels)
        else:
            bounds = _near_bounds(distinct, sums, size, levels)
        for level in range(centres.shape[1]):
            at = min(level, len(bounds) - 2)
            start, stop = bounds[at], bounds[at + 1]
            if stop == start + 1:
                centres[row, level] = distinct[start]
            else:
                centres[row, level] = (sums[1, stop] - sums[1, start]) / (sums[0, stop] - sums[0, start])


@numba.njit(nogil=True, cache=True)
@no_type_check
def _accumulate(values, importance, distinct, sums):
    """Merge equal values and sum; returns how many distinct ones there are."""
    size = 0
    sums[:, 0] = 0
    for column in range(len(values)):
        weight, value = importance[column], np.float64(values[column])
        if weight == 0:
            continue
        if size == 0 or distinct[size - 1] != value:
            distinct[size] = value
            sums[:, size + 1] = sums[:, size]
            size += 1
        sums[0, size] += weight
        sums[1, size] += weight * value
        sums[2, size] += weight * value * value
    return size


@numba.njit(nogil=True, cache=True)
@no_type_check
def _cost(sums, start, stop):
    """Loss of the values from `start` to before `stop` with one level."""
    first = sums[1, stop] - sums[1, start]
    return sums[2, stop] - sums[2, start] - first * first / (sums[0, stop] - sums[0, start])


@numba.njit(nogil=True, cache=True)
@no_type_check
def _best_bounds(sums, size, levels):
    """Bounds of the best `levels` clusters of the first `size` values."""
    spare = size - levels
    # Entry t of layer q is of the first q + 1 + t values in q + 1 clusters; where the last of them starts.
    starts = np.zeros((levels, spare + 1), dtype=np.int64)
    before, after = np.empty(spare + 1), np.empty(spare + 1)
    for t in range(spare + 1):
        before[t] = _cost(sums, 0, t + 1)
    for layer in range(1, levels):
        _extend(sums, layer, before, after, starts[layer], layer == levels - 1)
        before, after = after, before
    bounds = np.empty(levels + 1, dtype=np.int64)
    bounds[levels] = size
    for layer in range(levels - 1, -1, -1):
        bounds[layer] = starts[layer, bounds[layer + 1] - layer - 1]
    return bounds


@numba.njit(nogil=True, cache=True)
@no_type_check
def _extend(sums, layer, before, after, starts, only_last):
    """Best costs with one more cluster; the start of the last cluster never falls as values are added."""
    last = len(before) - 1
    step = 1
    while 2 * step <= last + 1:
        step *= 2
    while step >= 1:  # every second entry between those known, so that each is sought between its neighbours
        for t in range(last if only_last else step - 1, last + 1, 2 * step):
            lowest = starts[t - step] if t >= step and not only_last else layer
            highest = min(starts[t + step], t + layer) if t + step <= last and not only_last else t + layer
            least, at = np.inf, lowest
            for start in range(lowest, highest + 1):
                cost = before[start - layer] + _cost(sums, start, t + layer + 1)
                if cost < least:
                    least, at = cost, start
            after[t], starts[t] = least, at
        step = 0 if only_last else step // 2


@numba.njit(nogil=True, cache=True)
@no_type_check
def _near_bounds(distinct, sums, size, levels):
    """Bounds of `levels` clusters that Lloyd's algorithm no longer moves, or not within ROUNDS."""
    bounds = _spread(distinct, sums, size, levels)
    centres = np.empty(levels)
    for _ in range(ROUNDS):
        for level in range(levels):
            start, stop = bounds[level], bounds[level + 1]
            centres[level] = (sums[1, stop] - sums[1, start]) / (sums[0, stop] - sums[0, start])
        moved = False
        at = 0
        for level in range(1, levels):
            middle = (centres[level - 1] + centres[level]) / 2
            at = max(at, bounds[level - 1] + 1)  # every cluster keeps a value
            while at < size - levels + level and distinct[at] <= middle:
                at += 1
            moved |= at != bounds[level]
            bounds[level] = at
        if not moved:
            break
    return bounds


@numba.njit(nogil=True, cache=True)
@no_type_check
def _spread(distinct, sums, size, levels):
    """Bounds of clusters as dense as many levels should be, none of them empty."""
    reached = np.zeros(size)
    for index in range(1, size):
        weight = (sums[0, index + 1] - sums[0, index - 1]) / 2
        reached[index] = reached[index - 1] + weight ** (1 / 3) * (distinct[index] - distinct[index - 1]) ** (2 / 3)
    bounds = np.empty(levels + 1, dtype=np.int64)
    bounds[0], bounds[levels], at = 0, size, 0
    for level in range(1, levels):
        at = max(at, bounds[level - 1] + 1)
        while at < size - levels + level and reached[at] < reached[size - 1] * level / levels:
            at += 1
        bounds[level] = at
    return bounds
