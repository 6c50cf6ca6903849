"""k-th smallest element by radix histogram.

fp32 numbers become int32 keys in the same order. Positive numbers are ordered as their bits are; of a negative number
all bits but the sign are flipped; NaN becomes the largest key. One pass counts the keys by their leading BIN_BITS
bits. The running total of the counts tells which bin holds the k-th key, and only this bin's keys are partitioned:

    counts     3   5   0   9   2        k = 10: the first bins hold 8, so it is the second of the fourth bin
    bins      [0] [1] [2] [3] [4]

A partition of all numbers would move each of them several times; here all but those of one bin are only read.
"""

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float

BIN_BITS = 12
"""Leading bits that numbers are counted by: their sign, their exponent and three bits more."""
SHIFT = 32 - BIN_BITS
LAST = np.int32(0x7FFFFFFF)


def around(values: Float[np.ndarray, " number"], rank: int) -> tuple[float, float]:
    """The rank-th lowest of fp32 numbers, counted from 1, and the next (inf where there is none); NaN come last."""
    keys = _keys(values)
    counts = _counts(keys)
    last = np.cumsum(counts)
    place = int(np.searchsorted(last, rank))
    before = int(last[place]) - int(counts[place])
    # Only numbers of one bin can have this rank; the next may be the lowest of a later one.
    candidates = _of_bin(keys, place - (1 << (BIN_BITS - 1)), int(counts[place]))
    at = rank - before - 1
    candidates.partition((at, min(at + 1, len(candidates) - 1)))
    if at + 1 < len(candidates):
        following = candidates[at + 1]
    else:
        later = keys[keys > candidates[at]]
        following = later.min() if len(later) else _key_of_inf()
    return tuple(_numbers(np.array([candidates[at], following], np.int32)).tolist())


@numba.njit(nogil=True, cache=True)
@no_type_check
def _keys(values):
    """Whole numbers that order as fp32 numbers do, NaN last."""
    bits, keys = values.view(np.int32), np.empty(len(values), np.int32)
    for at in range(len(bits)):
        # The bits of positive numbers order as these do, and those of negative ones the other way.
        keys[at] = LAST if values[at] != values[at] else bits[at] ^ ((bits[at] >> 31) & LAST)
    return keys


def _numbers(keys: np.ndarray) -> np.ndarray:
    """The numbers of keys."""
    return (keys ^ ((keys >> 31) & LAST)).view(np.float32)  # its own inverse


def _key_of_inf() -> np.int32:
    return np.array([np.inf], np.float32).view(np.int32)[0]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _counts(keys):
    """Histogram of the keys; in four tables, since adding to one place again and again is slow."""
    counts, half = np.zeros((4, 1 << BIN_BITS), np.int32), 1 << (BIN_BITS - 1)
    whole = len(keys) // 4 * 4
    for start in range(0, whole, 4):
        for table in range(4):
            counts[table, (keys[start + table] >> SHIFT) + half] += 1
    for at in range(whole, len(keys)):
        counts[0, (keys[at] >> SHIFT) + half] += 1
    return counts.sum(axis=0)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _of_bin(keys, place, count):
    """The keys of a bin."""
    candidates, filled = np.empty(count, np.int32), 0
    for at in range(len(keys)):
        if keys[at] >> SHIFT == place:
            candidates[filled] = keys[at]
            filled += 1
    return candidates
