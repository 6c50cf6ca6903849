"""Tensor trains of matrices: TT-SVD, ranks, and rows without the whole matrix.

A matrix of V rows and W columns is read as a tensor. Each row index is split into digits i1, i2, i3 of the bases
v1, v2, v3, whose product is at least V. Each column index is split likewise, with bases w1, w2, w3. The entry is a
product of small matrices, one taken from each core of shape [rank before, v_k, w_k, rank after]:

    matrix[i, j] = core_1[:, i1, j1] @ core_2[:, i2, j2] @ core_3[:, i3, j3]

The ranks at both ends are 1. Rows and columns beyond V and W are padding: zeros when the train is made, cut off when
it is read.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from torch import Tensor

PADDING = Fraction(1, 100)
"""Largest share of indices that padding may add, so that a size without divisors gets nearly equal bases too."""


@functools.cache
def balanced_factors(size: int, count: int) -> tuple[int, ...]:
    """Ascending bases whose product is `size` or up to 1 % (at least 1) above it.

    Bases that differ by a factor of 2 at most are preferred, then those with least padding. Where there are none, the
    bases with the smallest sum are taken.
    """
    most = max(size + 1, math.floor(size * (1 + PADDING)))
    splits = [split for split in _splits(size, count) if math.prod(split) <= most]
    equal = [split for split in splits if split[-1] <= 2 * split[0]]
    if equal:
        return min(equal, key=lambda split: (math.prod(split), sum(split)))
    return min(splits, key=lambda split: (sum(split), math.prod(split)))


def _splits(size: int, count: int, least: int = 1) -> Iterator[tuple[int, ...]]:
    """Ascending bases whose product is at least `size`, the last as small as the others allow."""
    if count == 1:
        yield (max(size, least),)
        return
    for first in range(least, math.ceil(size ** (1 / count)) + 1):
        for rest in _splits(math.ceil(size / first), count - 1, first):
            yield (first, *rest)


def full_ranks(rows: Sequence[int], columns: Sequence[int]) -> tuple[int, ...]:
    """Ranks between cores at which a train holds any matrix exactly."""
    sizes = [row * column for row, column in zip(rows, columns, strict=True)]
    return tuple(min(math.prod(sizes[:bond]), math.prod(sizes[bond:])) for bond in range(1, len(sizes)))


def core_shapes(rows: Sequence[int], columns: Sequence[int], ranks: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Shapes [rank before, row base, column base, rank after] of the cores."""
    return list(zip((1, *ranks), rows, columns, (*ranks, 1), strict=True))


def parameter_count(rows: Sequence[int], columns: Sequence[int], ranks: Sequence[int]) -> int:
    """Numbers in all cores."""
    return sum(math.prod(shape) for shape in core_shapes(rows, columns, ranks))


def ranks_within(rows: Sequence[int], columns: Sequence[int], budget: int) -> tuple[int, ...] | None:
    """The ranks of the largest uniform bound whose cores hold at most `budget` numbers; None where bound 1 exceeds it.

    A bound limits every rank; none is larger than its full rank.
    """
    full = full_ranks(rows, columns)
    low, high = 0, max(full)
    while low < high:
        bound = (low + high + 1) // 2
        fits = parameter_count(rows, columns, [min(bound, rank) for rank in full]) <= budget
        low, high = (bound, high) if fits else (low, bound - 1)
    return tuple(min(low, rank) for rank in full) if low else None


def decompose_to_ranks(
    matrix: Float[Tensor, "row column"], rows: Sequence[int], columns: Sequence[int], ranks: Sequence[int]
) -> list[Float[Tensor, "_ _ _ _"]]:
    """Cores of given ranks in fp64, each at most its full rank."""
    return _decompose(matrix, rows, columns, lambda bond, _: ranks[bond])


def decompose_to_error(
    matrix: Float[Tensor, "row column"], rows: Sequence[int], columns: Sequence[int], error: float
) -> list[Float[Tensor, "_ _ _ _"]]:
    """Cores in fp64 of the smallest ranks that TT-SVD can prove a relative Frobenius error of at most `error` for.

    Each of the d - 1 cuts may lose delta = error / sqrt(d - 1) * ||matrix||. The losses are orthogonal, so that their
    squares add up to at most (error * ||matrix||)^2. Source: Oseledets 2011 (doi:10.1137/090752286), algorithm 1.
    """
    delta = error / math.sqrt(max(len(rows) - 1, 1)) * matrix.double().norm()

    def smallest(bond: int, values: Float[Tensor, " value"]) -> int:
        lost = values.square().flip(0).cumsum(0).flip(0).sqrt()  # by the values from here on
        return max(1, int((lost > delta).sum()))

    return _decompose(matrix, rows, columns, smallest)


def _decompose(
    matrix: Float[Tensor, "row column"],
    rows: Sequence[int],
    columns: Sequence[int],
    rank_of: Callable[[int, Float[Tensor, " value"]], int],
) -> list[Float[Tensor, "_ _ _ _"]]:
    """TT-SVD: cut one core after another off the left side, by the singular vectors of what is left.

    Args:
        rank_of: rank to keep at a cut, counted from 0, given its singular values.
    """
    rest, cores, before = _as_tensor(matrix.double(), rows, columns), [], 1
    for bond, (row, column) in enumerate(zip(rows[:-1], columns[:-1], strict=True)):
        left, values, right = torch.linalg.svd(rest.reshape(before * row * column, -1), full_matrices=False)
        rank = rank_of(bond, values)
        cores.append(left[:, :rank].reshape(before, row, column, rank))
        rest, before = values[:rank, None] * right[:rank], rank
    return [*cores, rest.reshape(before, rows[-1], columns[-1], 1)]


def _as_tensor(
    matrix: Float[Tensor, "row column"], rows: Sequence[int], columns: Sequence[int]
) -> Float[Tensor, "..."]:
    """The padded matrix with one dimension for each core, that of a row digit and its column digit."""
    padded = matrix.new_zeros(math.prod(rows), math.prod(columns))
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    pairs = [axis for digit in range(len(rows)) for axis in (digit, len(rows) + digit)]
    sizes = [row * column for row, column in zip(rows, columns, strict=True)]
    return padded.view(*rows, *columns).permute(pairs).reshape(sizes)


def look_up(cores: Sequence[Float[Tensor, "_ _ _ _"]], index: Int[Tensor, " token"]) -> Float[Tensor, "token width"]:
    """Rows of the padded matrix, one for each index, by contracting the slices of its digits.

    Tokens with the same digit share one product: a copy of a slice for each token would take rank^2 numbers. Rows have
    the dtype of the cores, also where autocast computes the products in another one.
    """
    digits = torch.unravel_index(index, [core.shape[1] for core in cores])
    partial = cores[0][0, digits[0]]  # [token, columns so far, rank]
    for core, digit in zip(cores[1:], digits[1:], strict=True):
        before, _, column, after = core.shape
        width = partial.shape[1] * column
        extended = partial.new_empty(len(index), width, after)
        values = range(1) if index.is_meta else digit.unique()  # shapes alone: which rows are read is not known
        for value in values:
            if index.is_meta:
                extended = (partial @ core[:, value].reshape(before, column * after)).view(len(index), width, after)
                continue
            tokens = (digit == value).nonzero().flatten()
            part = partial[tokens] @ core[:, value].reshape(before, column * after)
            extended[tokens] = part.view(len(tokens), width, after).to(extended.dtype)
        partial = extended
    return partial[..., 0]


def row_blocks(
    cores: Sequence[Float[Tensor, "_ _ _ _"]],
) -> Iterator[Float[Tensor, "_ width"]]:
    """The padded matrix in blocks of consecutive rows, those of one first digit, so that it is never there whole."""
    for first in range(cores[0].shape[1]):
        block = cores[0][0, first, None]  # [rows so far, columns so far, rank]
        for core in cores[1:]:
            before, row, column, after = core.shape
            product = block @ core.reshape(before, row * column * after)
            product = product.view(*block.shape[:2], row, column, after).transpose(1, 2)
            block = product.reshape(block.shape[0] * row, block.shape[1] * column, after)
        yield block[..., 0]


def look_up_macs(rows: Sequence[int], columns: Sequence[int], ranks: Sequence[int]) -> int:
    """Multiply-accumulates of `look_up` for one token."""
    shapes = core_shapes(rows, columns, ranks)
    widths = [math.prod(columns[:place]) for place in range(len(columns))]
    return sum(
        width * before * column * after
        for width, (before, _, column, after) in zip(widths[1:], shapes[1:], strict=True)
    )


def rebuild_macs(rows: Sequence[int], columns: Sequence[int], ranks: Sequence[int]) -> int:
    """Multiply-accumulates of all `row_blocks`, padding included."""
    shapes = core_shapes(rows, columns, ranks)
    sizes = [math.prod(rows[:place]) * math.prod(columns[:place]) for place in range(len(columns))]
    return sum(size * math.prod(shape) for size, shape in zip(sizes[1:], shapes[1:], strict=True))
