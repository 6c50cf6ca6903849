"""Rounding rules of every count that follows from a ratio: weights, units, widths.

Ratios are taken as written. The binary number 0.29 is a little less than 0.29, so that floor(0.29 * 100) is 28;
as a fraction of decimal digits it is 29. All rules but `spread` and `share_of_step` therefore go through `as_written`.

The rules:

| rule | unit it counts in | used by |
|---|---|---|
| floor(ratio * size) | the unit a method ranks in: layer, row, block of columns, all targets | pruners, squeezellm |
| floor(ratio * blocks) | whole decoder layers | layers |
| floor(ratio * heads), then whole groups of heads | heads of a block, or of all blocks together | heads |
| width - floor(width * (1 - ratio)), then whole units | channels a block's units span | llm_pruner, qap, glu |
| floor(expansion_ratio * residual width) | neurons that stay | glu |
| size / m * (m - n) | weights of a layer under a pattern n:m | pruners |
| floor((1 - ratio) * out * in / (out + in)), at least 1 | rank of the two factors of a layer | svd |
"""

import functools
import math
from fractions import Fraction

import torch
from jaxtyping import Int
from torch import Tensor

RELATIVE_TO = ("original", "remaining")
"""Weights that a ratio is a fraction of: all targeted ones, or those not removed yet."""


def as_written(ratio: float | int) -> Fraction:
    """Exact fraction of the decimal digits of a ratio."""
    return Fraction(repr(float(ratio)))


@functools.cache
def drop_count(ratio: float | int, size: int) -> int:
    """floor(ratio * size): weights, heads or blocks to remove of `size`.

    Source: arXiv:2301.00774 and arXiv:2306.11695.
    """
    return math.floor(as_written(ratio) * size)


def drop_total(present: int, size: int, ratio: float | int, relative_to: str) -> int:
    """Weights that a unit of `size` has lost after a stage, the `present` removed ones among them.

    A removed weight never comes back: a unit that lost more than the ratio asks for keeps its zeros.
    """
    if relative_to == "original":
        return max(present, drop_count(ratio, size))
    return present + drop_count(ratio, size - present)


def drop_counts(present: Int[Tensor, " unit"], size: int, ratio: float | int, relative_to: str) -> Int[Tensor, " unit"]:
    """`drop_total` of many units of one size."""
    if relative_to == "original":
        return present.clamp(min=drop_count(ratio, size))
    more = [drop_count(ratio, size - count) for count in present.tolist()]
    return present + torch.tensor(more, device=present.device)


def pattern_drop_count(size: int, pattern: tuple[int, int]) -> int:
    """Weights of `size` that a pattern (n, m) removes: m - n of every m; a last partial group loses none."""
    kept, group = pattern
    return size // group * (group - kept)


def kept_count(ratio: float | int, width: int) -> int:
    """floor(width * (1 - ratio)): channels of a width that stay.

    Source: the rounding of LLM-Pruner, arXiv:2305.11627. It gives Llama-2-7B at 0.25 of blocks 4 to 29 its
        5,422,977,024 parameters.
    """
    return math.floor((1 - as_written(ratio)) * width)


def unit_drop_count(ratio: float | int, width: int, units: int) -> int:
    """Whole units to remove of `units` that span `width` channels together: floor(removed channels / unit width).

    Units are neurons of width 1, or key/value groups with all channels of their query heads. Source: as `kept_count`.
    """
    return (width - kept_count(ratio, width)) // (width // units)


def group_drop_count(ratio: float | int, heads: int, group_heads: int) -> int:
    """Whole key/value groups to remove: floor(ratio * heads) / `group_heads`, rounded down.

    Source: arXiv:1905.10650 counts heads; grouped queries have no rule there, and a group goes only as a whole.
    """
    return drop_count(ratio, heads) // group_heads


def expansion_width(expansion_ratio: float | int, residual: int) -> int:
    """floor(expansion_ratio * residual): inner width of an MLP, in neurons, for a residual width."""
    return math.floor(as_written(expansion_ratio) * residual)


def factor_rank(ratio: float | int, rows: int, columns: int) -> int:
    """floor((1 - ratio) * rows * columns / (rows + columns)), at least 1: rank of two factors of a matrix.

    The factors hold rank * (rows + columns) numbers. Source: arXiv:2403.07378, which counts the same way.
    """
    return max(math.floor((1 - as_written(ratio)) * rows * columns / (rows + columns)), 1)


def spread(count: int, sizes: list[int]) -> list[int]:
    """`count` distributed over units in proportion to their sizes; the first units take the remainder, one each."""
    total = sum(sizes)
    shares = [count * size // total for size in sizes]
    left = count - sum(shares)
    return [share + (index < left) for index, share in enumerate(shares)]


def share_of_step(total: int, step: int, steps: int) -> int:
    """Part of `total` that step `step` of `steps` removes, counted from 1; the parts sum to `total`."""
    return total * step // steps - total * (step - 1) // steps
