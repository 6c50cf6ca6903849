"""Codes into a table of levels for each row, with a few weights kept apart in 16 bits."""

import math
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slimsweep.linear.base import Layout, PackedLinear
from slimsweep.linear.bit_packing import pack, unpack

INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
"""Integer dtypes that numba moves in place of a float: it has no bf16."""


class CodebookLinear(PackedLinear):
    """Weights as codes into their row's own levels; outliers lie beside them, row by row (CSR), in bf16.

    Tensors: `codes` (without gaps along the inputs, in 32-bit words) and `table` [out level] in bf16, ascending. With
    outliers also `outlier_values`, `outlier_columns` (16-bit where that holds every column's index) and
    `outlier_starts`: the first outlier of each row, then the end of the last row. An outlier replaces the level of its
    code. Settings: `bits`, and `outliers`, their number.
    """

    kind = "table"

    @classmethod
    def from_weight(
        cls,
        table: Float[Tensor, "out level"],
        weight: Float[Tensor, "out in"],
        outliers: Bool[Tensor, "out in"] | None = None,
    ) -> "CodebookLinear":
        """Pack what is nearest to a weight; levels are rounded to bf16 first, of two equally near the lower is taken.

        The levels must be 2^bits in number. What is no level is rounded to one, except `outliers`.
        """
        table = table.to(torch.bfloat16).sort(dim=1).values
        bits = (table.shape[1] - 1).bit_length()
        codes = nearest_levels(table, weight)
        if outliers is not None:
            codes.masked_fill_(outliers, 0)
        tensors = {"codes": pack((codes - 2 ** (bits - 1)).to(torch.int8), bits), "table": table}
        count = 0 if outliers is None else int(outliers.sum())
        if count:
            starts = torch.zeros(len(weight) + 1, dtype=torch.int32, device=weight.device)
            starts[1:] = outliers.sum(dim=1).cumsum(0)
            tensors |= {
                "outlier_values": weight[outliers].to(torch.bfloat16),
                "outlier_columns": outliers.nonzero()[:, 1].to(_column_dtype(weight.shape[1])),
                "outlier_starts": starts,
            }
        return cls(tuple(weight.shape), {"bits": bits, "outliers": count}, tensors)

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        (rows, columns), bits, count = shape, settings["bits"], settings["outliers"]
        layout: Layout = {
            "codes": ((rows, math.ceil(columns * bits / 32)), torch.int32),
            "table": ((rows, 2**bits), torch.bfloat16),
        }
        if count:
            layout |= {
                "outlier_values": ((count,), torch.bfloat16),
                "outlier_columns": ((count,), _column_dtype(columns)),
                "outlier_starts": ((rows + 1,), torch.int32),
            }
        return layout

    @property
    def code_bits(self) -> int | float:
        return self.settings["bits"]

    def outliers(self) -> tuple[Int[Tensor, " outlier"], Int[Tensor, " outlier"]]:
        """Row and column of each weight kept apart."""
        if not self.settings["outliers"]:
            none = torch.empty(0, dtype=torch.int64, device=self.table.device)
            return none, none
        rows = torch.arange(self.out_features, device=self.table.device)
        return rows.repeat_interleave(self.outlier_starts.diff()), self.outlier_columns.long()

    def dequantized(self) -> Float[Tensor, "out in"]:
        table, bits = self.table.data.to(self.dtype), self.settings["bits"]
        if table.device.type == "cpu":  # elsewhere unpacking in torch would take most of a forward
            weight = torch.empty(self.out_features, self.in_features, dtype=self.dtype)
            as_integers = INTEGERS[self.dtype]
            _look_up(
                self.codes.data.numpy().view(np.uint32),
                table.view(as_integers).numpy(),
                bits,
                weight.view(as_integers).numpy(),
            )
        else:
            codes = unpack(self.codes.data, bits, (self.out_features, self.in_features))
            weight = table.gather(1, codes.long() + 2 ** (bits - 1))
        if self.settings["outliers"]:
            weight[self.outliers()] = self.outlier_values.data.to(self.dtype)
        return weight

    def requantize(self, weight: Float[Tensor, "out in"]) -> "CodebookLinear":
        """The same levels and the same places of outliers; a row that gains zeros gives one level up for 0."""
        weight = weight.float()
        outliers = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
        outliers[self.outliers()] = True
        table = with_zero(self.table.data.float(), weight, outliers)
        return CodebookLinear.from_weight(table, weight, outliers)


def nearest_levels(table: Float[Tensor, "out level"], weight: Float[Tensor, "out in"]) -> Int[Tensor, "out in"]:
    """Index of each weight's nearest level in its row's ascending levels; of two equally near the lower one."""
    table = table.float()
    middles = (table[:, :-1] + table[:, 1:]) / 2
    return torch.searchsorted(middles.contiguous(), weight.float().contiguous())


def with_zero(
    table: Float[Tensor, "out level"], weight: Float[Tensor, "out in"], outliers: Bool[Tensor, "out in"]
) -> Float[Tensor, "out level"]:
    """Levels with 0 among them in each row that holds zeros beside its outliers.

    Where it was not, it replaces the level whose weights lose least by going to their next nearest, or to 0.
    """
    lacks = ((weight == 0) & ~outliers).any(dim=1) & (table != 0).all(dim=1)
    if not bool(lacks.any()):
        return table
    table, levels = table.clone(), table[lacks]
    users = (weight[lacks] != 0) & ~outliers[lacks]
    used = torch.zeros_like(levels).scatter_add_(1, nearest_levels(levels, weight[lacks]), users.float())
    distance = torch.minimum(_to_neighbour(levels), levels.abs())
    given_up = (used * distance.square()).argmin(dim=1, keepdim=True)
    table[lacks] = levels.scatter(1, given_up, 0.0).sort(dim=1).values
    return table


def _to_neighbour(levels: Float[Tensor, "out level"]) -> Float[Tensor, "out level"]:
    """From each ascending level to the nearer of its neighbours."""
    gaps, end = levels.diff(dim=1), torch.full_like(levels[:, :1], torch.inf)
    return torch.minimum(torch.cat([end, gaps], dim=1), torch.cat([gaps, end], dim=1))


def _column_dtype(columns: int) -> torch.dtype:
    return torch.int16 if columns <= torch.iinfo(torch.int16).max + 1 else torch.int32


@numba.njit(nogil=True, cache=True)
@no_type_check
def _look_up(words, table, bits, weight):
    """Each code's entry of its row's table."""
    rows, columns = weight.shape
    last = np.uint64(2**bits - 1)
    for row in range(rows):
        entries, values = table[row], weight[row]
        held, count, word = np.uint64(0), 0, 0
        for column in range(columns):
            if count < bits:
                held |= np.uint64(words[row, word]) << np.uint64(count)
                count += 32
                word += 1
            values[column] = entries[held & last]
            held >>= np.uint64(bits)
            count -= bits
