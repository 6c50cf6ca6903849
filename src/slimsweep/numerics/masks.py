"""Keep-masks with exact counts: weights are dropped by rank, ties included.

The k-th lowest score of a unit is its threshold. Scores above it stay. Scores equal to it go one by one, the first
first, until the count is reached, so that ties cannot drop more than was asked:

    score  3 1 2 1 0 1     k = 3: threshold 1, one score below it, so two of the three ones go
    keep   T F T F F T

If the (k+1)-th lowest score is above the threshold, as is usual, one comparison gives the mask. The threshold
comes from a sort (short units) or from numpy's partition (longer ones; faster than torch.kthvalue).
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SHORT_UNIT = 64
"""Weights of a unit below which sorting it beats partitioning it."""


def parse_pattern(pattern: str) -> tuple[int, int] | None:
    """(n, m) of a pattern `n:m`, which keeps n of every m inputs; None for `unstructured`.

    Raises:
        ValueError: any other text, or n:m without 1 <= n < m.
    """
    if pattern == "unstructured":
        return None
    words = pattern.split(":")
    if len(words) == 2 and all(word.isdecimal() for word in words) and 1 <= int(words[0]) < int(words[1]):
        return int(words[0]), int(words[1])
    raise ValueError(f"{pattern!r} is no pattern: give unstructured, or n:m with 1 <= n < m, such as 2:4")


def any_of(mask: Bool[Tensor, "*shape"]) -> bool:
    """Whether a mask is anywhere True; torch's any() takes forty times as long on a CPU."""
    straight = (
        mask.T if mask.ndim == 2 and mask.T.is_contiguous() else mask
    )  # across memory it takes twenty times as long
    return mask.numel() > 0 and bool(straight.view(torch.uint8).max())


def keep_highest(score: Float[Tensor, "unit weight"], dropped: Int[Tensor, " unit"]) -> Bool[Tensor, "unit weight"]:
    """Keep-mask of each unit's highest scores; unit i loses its dropped[i] lowest.

    Dropped by rank, not by threshold, so ties cannot drop more than was asked; of equals the first go first. NaN stay,
    even where that leaves more than asked.
    """
    score = _of_numpy(score)
    threshold, following = _threshold_and_next(score, dropped)
    threshold = torch.where(threshold.isnan(), math.inf, threshold)
    keep = above(score, threshold)
    with_ties = (~(following > threshold)).flatten().nonzero().flatten()  # a NaN, which stays, hides what follows
    if len(with_ties):
        some, lowest = score[with_ties], threshold[with_ties]
        tied = some == lowest
        room = dropped[with_ties, None] - (some < lowest).sum(dim=1, keepdim=True)
        keep[with_ties] |= tied & (tied.cumsum(dim=1) > room)
    return keep


def keep_highest_of_all(score: Float[Tensor, "out in"], dropped: int) -> Bool[Tensor, "out in"]:
    """Keep-mask of the highest scores of a whole tensor, as one unit. A transposed tensor is not copied."""
    score = _of_numpy(score)
    flat = (score.T if score.T.is_contiguous() else score).reshape(1, -1)  # a threshold has no order
    if not dropped:
        return torch.ones_like(score, dtype=torch.bool)
    threshold, following = torch.cat(_around(flat, dropped)).flatten().tolist()  # a GPU is waited for once
    threshold = math.inf if math.isnan(threshold) else threshold
    keep = above(score, threshold)
    if not following > threshold:
        rows, columns = (score == threshold).nonzero(as_tuple=True)
        below = score.numel() - int(keep.count_nonzero()) - len(rows)
        keep[rows[dropped - below :], columns[dropped - below :]] = True
    return keep


def above(score: Float[Tensor, "*shape"], threshold: float | Float[Tensor, "unit 1"]) -> Bool[Tensor, "*shape"]:
    """Mask of the scores above a threshold, and of NaN."""
    if not score.is_cpu:
        return ~(score <= threshold)
    values = score.numpy()
    limit = threshold.numpy() if isinstance(threshold, Tensor) else values.dtype.type(threshold)
    return torch.from_numpy(~(values <= limit))  # numpy compares eight times as fast as torch


def remove(weight: Float[Tensor, "*shape"], keep: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`weight` with zeros where `keep` is False; everything else keeps its bits, a negative zero included."""
    # Not weight * keep: inf * 0 is nan. And by bits: a fill by a mask mispredicts a branch at every other weight.
    bits = weight.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()])
    stays = (keep | (weight == 0)).to(bits.dtype).neg_()  # all bits or none
    return (bits & stays).view(weight.dtype)


def lowest_overall(scores: Callable[[], Iterable[Float[Tensor, " weight"]]], rank: int) -> tuple[float, int]:
    """The rank-th lowest of many non-negative fp32 tensors together, and how many of its equals lie within the rank.

    Two passes with histograms of the upper and lower 16 bits, which order as the numbers do: memory stays flat
    and the result exact. `scores` makes a fresh pass each time. Rank 0 gives -1, below every score.
    """
    if rank == 0:
        return -1.0, 0
    upper = sum(torch.bincount(_bits(score) >> 16, minlength=2**16).cpu() for score in scores())
    high, before = _bin_of(upper, rank)
    lower = sum(
        torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=2**16).cpu() for bits in map(_bits, scores())
    )
    low, before_low = _bin_of(lower, rank - before)
    threshold = torch.tensor(high << 16 | low, dtype=torch.int32).view(torch.float32)
    return float(threshold), rank - before - before_low


def _bits(score: Float[Tensor, " weight"]) -> Int[Tensor, " weight"]:
    return score.view(torch.int32)


def _bin_of(histogram: Int[Tensor, " bin"], rank: int) -> tuple[int, int]:
    """The bin that holds the rank-th lowest, and how many lie in the bins below it."""
    total = histogram.cumsum(0)
    index = int(torch.searchsorted(total, rank))
    return index, int(total[index] - histogram[index])


def _of_numpy(score: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores in a dtype that numpy knows, in the same order."""
    return score.float() if score.dtype == torch.bfloat16 else score


def _threshold_and_next(
    score: Float[Tensor, "unit weight"], rank: Int[Tensor, " unit"]
) -> tuple[Float[Tensor, "unit 1"], Float[Tensor, "unit 1"]]:
    """Each unit's rank-th lowest score, counted from 1, and the next; -inf and inf where there is none."""
    if score.is_cpu and score.shape[1] >= SHORT_UNIT and bool((rank == rank[0]).all()):
        return _around(score, int(rank[0]))
    ordered = torch.nn.functional.pad(score.sort(dim=1).values, (0, 1), value=math.inf)
    lowest, following = ordered.gather(1, (rank[:, None] - 1).clamp(min=0)), ordered.gather(1, rank[:, None])
    return lowest.masked_fill(rank[:, None] == 0, -math.inf), following


def _around(score: Float[Tensor, "unit weight"], rank: int) -> tuple[Float[Tensor, "unit 1"], Float[Tensor, "unit 1"]]:
    """The same for units of one rank."""
    none = score.new_full((len(score), 1), math.inf)
    if score.is_cpu and score.shape[1] >= SHORT_UNIT:
        # numpy partitions an order of magnitude faster than torch.kthvalue.
        parts = np.partition(score.numpy(), max(rank - 1, 0), axis=1)
        following = torch.from_numpy(parts[:, rank:].min(axis=1, keepdims=True, initial=np.inf))
    else:
        parts = score.sort(dim=1).values
        following = parts[:, rank : rank + 1] if rank < score.shape[1] else none
    return torch.as_tensor(parts[:, rank - 1 : rank]) if rank else -none, following
