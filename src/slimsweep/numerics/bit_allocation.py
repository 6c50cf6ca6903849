"""Allocation of bits to layers within a budget: a multiple-choice knapsack."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

UNITS = 200_000
"""Most steps the budget is counted in; sizes that share a large divisor take fewer and are exact."""


def allocate(
    sizes: Sequence[int], bits: Sequence[Sequence[int | float]], losses: Sequence[Sequence[float]], average: float | int
) -> list[int]:
    """Choose for each layer, so that the sum of losses is least while sum(size x bits) <= average x sum(size).

    `bits` and `losses` are of each layer's choices. Of equal sums the one that gives earlier choices is taken.
    """
    least = [min(map(Fraction, choices)) for choices in bits]
    extra = [
        [size * (Fraction(b) - low) for b in choices] for size, choices, low in zip(sizes, bits, least, strict=True)
    ]
    budget = Fraction(repr(float(average))) * sum(sizes) - sum(
        size * low for size, low in zip(sizes, least, strict=True)
    )
    budget = min(budget, sum(map(max, extra)))
    shared = math.gcd(*(value.numerator for choices in extra for value in choices if value.denominator == 1)) or 1
    unit = max(Fraction(shared), budget / UNITS)
    capacity = int(budget // unit)
    # lost[c]: the least sum of the layers so far with at most c units; a row of `taken` says by which choice.
    lost, taken = np.zeros(capacity + 1), np.zeros((len(sizes), capacity + 1), dtype=np.uint8)
    for layer, costs in enumerate(extra):
        best = np.full(capacity + 1, np.inf)
        for choice, cost in enumerate(costs):
            units = math.ceil(cost / unit)
            if units > capacity:
                continue
            total = lost[: capacity + 1 - units] + losses[layer][choice]
            is_less = total < best[units:]
            best[units:][is_less] = total[is_less]
            taken[layer, units:][is_less] = choice
        lost = best
    picked = []
    for layer in range(len(sizes) - 1, -1, -1):
        picked.append(int(taken[layer, capacity]))
        capacity -= math.ceil(extra[layer][picked[-1]] / unit)
    return picked[::-1]
