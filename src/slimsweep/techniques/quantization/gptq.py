"""Round weights column by column, correcting those still to come."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slimsweep.linear.uniform import IntegerLinear
from slimsweep.numerics import uniform_grid
from slimsweep.numerics.column_solver import solve_columns
from slimsweep.numerics.column_solver.block import LANES, ColumnBlock
from slimsweep.numerics.hessian import InverseFactor
from slimsweep.numerics.parallel import parallel_map
from slimsweep.numerics.uniform_grid import Grid
from slimsweep.techniques.hessian_method import HessianMethod
from slimsweep.techniques.quantization.base import Quantizer, UniformGrid, flag_faults

ROWS_PER_PART = 256
"""Fewest rows of a layer that a core solves by itself."""


@dataclass(frozen=True)
class OrderedFactor:
    """The order in which columns are solved, and the factor of a Hessian whose inputs have that order."""

    order: Int[Tensor, " in"]
    factor: InverseFactor

    @property
    def damping_fraction(self) -> float:
        """Damping of the factor."""
        return self.factor.damping_fraction


@dataclass(frozen=True, kw_only=True)
class GPTQ(HessianMethod, UniformGrid, Quantizer):
    """Round each column in turn, and correct the columns after it for what that costs the layer's output.

    Source: arXiv:2210.17323, alg. 1; act-order and static groups are of its authors' code. Departures: weights of a
    dead input are rounded to nearest and correct no other column. With `preserve_sparsity`, removed weights stay zero,
    and later columns are corrected for that as for a rounding error.
    """

    version: ClassVar[int] = 2

    act_order: bool = True
    """Solve the columns whose inputs are largest first, while the most others are left to correct for them."""
    static_groups: bool = True
    """Fit grids before the solve; false: when a group is reached, to weights corrected so far (no act_order then)."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        faults += flag_faults("act_order", self.act_order) + flag_faults("static_groups", self.static_groups)
        if self.act_order is True and self.static_groups is False:
            faults.append(
                "static_groups=false with act_order=true: columns of one group are then solved at different times, so "
                "its grid must be known before; set act_order=false, or static_groups=true"
            )
        return faults

    def prepare(self, summed: Float[Tensor, "in in"]) -> OrderedFactor:
        order = torch.arange(len(summed), device=summed.device)
        if self.act_order:
            order = summed.diagonal().argsort(descending=True, stable=True)
            summed = summed[order][:, order]
        return OrderedFactor(order, super().prepare(summed))

    @property
    def prepared_name(self) -> str:
        return super().prepared_name + (" by activations" if self.act_order else "")

    def to_tensors(self, prepared: OrderedFactor) -> dict[str, Tensor]:
        return super().to_tensors(prepared.factor) | ({"order": prepared.order} if self.act_order else {})

    def from_tensors(self, tensors: dict[str, Tensor]) -> OrderedFactor:
        factor = super().from_tensors(tensors)
        order = tensors["order"] if self.act_order else torch.arange(len(factor.upper), device=factor.upper.device)
        return OrderedFactor(order, factor)

    def layer_bytes(self, shape: tuple[int, int]) -> int:
        return super().layer_bytes(shape) + 4 * self.act_order * shape[1] ** 2  # the Hessian in order

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: OrderedFactor,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> IntegerLinear:
        zeros = self.zeros(removed)
        if not self.static_groups:
            return self._by_group(weight, prepared.factor, zeros)
        levels = uniform_grid.fit(weight, self.grid, self.bits, self.group_size).with_zero(zeros)
        return IntegerLinear.from_codes(levels, self.codes(weight, prepared, levels, zeros))

    def codes(
        self,
        weight: Float[Tensor, "out in"],
        prepared: OrderedFactor,
        levels: Grid,
        zeros: Bool[Tensor, "out in"] | None = None,
    ) -> Int[Tensor, "out in"]:
        """The solution as codes of a grid. Rows are independent: each core solves its own."""
        groups, back = levels.group_of(weight.shape[1])[prepared.order], prepared.order.argsort()

        def solved(rows: slice) -> Int[Tensor, "part in"]:
            grid, weight_t = levels.rows(rows), weight[rows].T.contiguous().index_select(0, prepared.order)
            stays = None if zeros is None else ~zeros[rows].T.contiguous().index_select(0, prepared.order)
            solve = Solve(weight_t, stays, prepared.factor, self.block_columns)
            solve.columns(slice(0, len(weight_t)), grid, groups)
            return grid.quantize(solve.solved.index_select(0, back).T.contiguous())

        parts = max(1, min(torch.get_num_threads(), len(weight) // ROWS_PER_PART)) if weight.is_cpu else 1
        bounds = [len(weight) * part // parts // LANES * LANES for part in range(parts)] + [len(weight)]
        return torch.cat(parallel_map(solved, map(slice, bounds, bounds[1:]), weight.device))

    def _by_group(
        self, weight: Float[Tensor, "out in"], factor: InverseFactor, zeros: Bool[Tensor, "out in"] | None
    ) -> IntegerLinear:
        """Solve one group after the other, each on a grid of its weights as they are when it is reached."""
        weight_t, grids = weight.T.contiguous(), []
        solve = Solve(weight_t, None if zeros is None else ~zeros.T.contiguous(), factor, self.block_columns)
        step = self.group_size or len(weight_t)
        for start in range(0, len(weight_t), step):
            these = slice(start, start + step)
            part = None if zeros is None else zeros[:, these]
            group_weight = solve.corrected(these).T
            group_weight = group_weight if part is None else group_weight.masked_fill(part, 0)
            levels = uniform_grid.fit(group_weight, self.grid, self.bits, None).with_zero(part)
            solve.columns(these, levels, levels.group_of(step))
            grids.append(levels)
        levels = Grid.beside(grids)
        return IntegerLinear.from_codes(levels, levels.quantize(solve.solved.T.contiguous()))


class Solve:
    """A layer whose columns, the rows of `weight_t`, become levels one after the other."""

    def __init__(
        self,
        weight_t: Float[Tensor, "in out"],
        keep: Bool[Tensor, "in out"] | None,
        factor: InverseFactor,
        block_columns: int,
    ):
        self.weight_t, self.factor, self.block_columns = weight_t, factor, block_columns
        self.keep = torch.ones_like(weight_t, dtype=torch.bool) if keep is None else keep
        self.solved, self.errors = torch.empty_like(weight_t), torch.empty_like(weight_t)

    def corrected(self, these: slice) -> Float[Tensor, "column out"]:
        """Columns corrected for all that were solved before the first of them; they lie in `solved`."""
        owed, before = self.factor.upper[: these.start, these].T, self.errors[: these.start]
        return torch.addmm(self.weight_t[these], owed, before, alpha=-1, out=self.solved[these])

    def columns(self, these: slice, levels: Grid, groups: Int[Tensor, " column"]) -> None:
        """Solve the next columns; `groups` says which group of the grid each of them belongs to."""
        for start in range(these.start, these.stop, self.block_columns):
            part = slice(start, min(start + self.block_columns, these.stop))
            upper, scale = self.factor.upper[part, part], self.factor.scale[part]
            places = groups[part.start - these.start : part.stop - these.start]
            tensors = (self.corrected(part), self.keep[part], self.errors[part], upper, scale)
            solve_columns(ColumnBlock(*tensors, grid=levels, groups=places))
