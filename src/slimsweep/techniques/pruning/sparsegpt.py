"""Remove weights column by column, correcting the rest; with bits, round those that stay in the same solve."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.blockwise.layer_method import Pruned
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics import uniform_grid
from slimsweep.numerics.column_solver import solve_columns
from slimsweep.numerics.column_solver.block import ColumnBlock
from slimsweep.numerics.hessian import InverseFactor
from slimsweep.numerics.uniform_grid import Grid
from slimsweep.techniques.base import StageReport
from slimsweep.techniques.hessian_method import HessianMethod
from slimsweep.techniques.layerwise import Form
from slimsweep.techniques.pruning.base import Pruner
from slimsweep.techniques.quantization.base import GROUP_SIZE, grid_faults, group_faults, uniform_form, with_bits


@dataclass(frozen=True, kw_only=True)
class SparseGPT(HessianMethod, Pruner):
    """Prune by the loss that removing a weight costs when the others are corrected for it.

    The mask of a block of columns is chosen over all rows at once, when the block is reached. With `bits` the
    weights that stay are rounded when their column is reached, and the layer is stored packed.

    Source: arXiv:2301.00774, alg. 1, and sec. 3.5 for joint rounding. Departures: what an earlier stage removed stays
    removed, and its column is corrected for; a dead input loses its weights first, but only within the count. Grids
    span the weights before the solve.
    """

    version: ClassVar[int] = 2

    bits: int | None = None
    """Bits of the weights that stay: 2, 3, 4 or 8; null: they are not rounded."""
    group_size: int | None = GROUP_SIZE
    """With bits: neighbouring inputs that share a scale; null: a whole row. Must divide every input width."""
    grid: str = "asymmetric"
    """With bits: `symmetric`, `asymmetric` (integer zero-point) or `minimum` (float minimum)."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        if self.bits is not None:
            if self.passes != 1:
                faults.append(
                    f"passes={self.passes} with bits={self.bits}: a second pass would round what is rounded already; "
                    "set passes=1, or prune in a stage before"
                )
            return faults + grid_faults(self.bits, self.group_size, self.grid)
        # Without bits they decide nothing, and would give one result two keys.
        given = {"group_size": self.group_size, "grid": self.grid}
        return faults + [
            f"{name}={value!r} without bits: set bits to round what stays, or leave it out"
            for name, value in given.items()
            if value != getattr(SparseGPT, name)
        ]

    def faults(self, skeleton: LanguageModel) -> list[str]:
        size = None if self.bits is None else self.group_size
        return super().faults(skeleton) or group_faults(self.targets(skeleton), size)

    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        report = super().apply(model, context)
        return report if self.bits is None else with_bits(report, self.targets(model))

    def plan(self, skeleton: Skeleton) -> StageReport:
        report = super().plan(skeleton)
        return report if self.bits is None else with_bits(report, self.targets(skeleton))

    def form(self, shape: tuple[int, int]) -> Form | None:
        return None if self.bits is None else uniform_form(shape, self.bits, self.group_size, self.grid)

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: InverseFactor,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Pruned:
        weight_t, upper = weight.T.contiguous(), prepared.upper  # a column's weights side by side, see solve_columns
        stays = torch.ones_like(weight_t, dtype=torch.bool) if removed is None else ~removed.T.contiguous()
        levels = None if self.bits is None else self._levels(weight)
        groups = None if levels is None else levels.group_of(weight.shape[1])
        solved, errors = torch.empty_like(weight_t), torch.empty_like(weight_t)
        for start, stop in self._blocks(weight.shape[1]):
            these = slice(start, stop)
            # All corrections that earlier blocks owe this one, in one product.
            columns = torch.addmm(weight_t[these], upper[:start, these].T, errors[:start], alpha=-1, out=solved[these])
            scale = prepared.scale[these]
            if not self.group:  # groups are chosen on the way
                before = None if removed is None else removed[:, these]
                stays[these] = self.keep(columns.abs().mul_(scale[:, None]).T, before).T
            places = None if groups is None else groups[these]
            block = (columns, stays[these], errors[these], upper[these, these], scale, self.group, levels, places)
            solve_columns(ColumnBlock(*block))
        keep = stays.T.contiguous()
        if levels is not None:
            return Pruned(IntegerLinear.from_codes(levels, levels.quantize(solved.T.contiguous())), keep)
        if bool(keep.all()):  # nothing was corrected; a correction by 0 may take the sign of a zero
            return Pruned(weight, keep)
        if removed is not None:  # among them negative zeros, which keep their sign
            solved = torch.where(removed.T, weight_t, solved)
        return Pruned(solved.T.contiguous(), keep)

    def _levels(self, weight: Float[Tensor, "out in"]) -> Grid:
        """Grids of the weights before the solve; all have 0 among their levels, since any weight may go."""
        levels = uniform_grid.fit(weight, self.grid, self.bits, self.group_size)
        return levels.with_zero(torch.ones_like(weight, dtype=torch.bool))

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(1, rows * (stop - start)) for start, stop in self._blocks(columns)]

    def _blocks(self, columns: int) -> list[tuple[int, int]]:
        """First and last + 1 column of each block, the last perhaps narrower; groups of a pattern stay whole."""
        step = self.block_columns
        if self.group:
            step = max(step // self.group[1], 1) * self.group[1]
        return [(start, min(start + step, columns)) for start in range(0, columns, step)]
