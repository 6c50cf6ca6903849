"""Remove weights column by column, correcting the rest."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.columns import solve_columns
from slimsweep.hessian import InverseFactor, factor_inverse, gram
from slimsweep.techniques.base import Pruner


@dataclass(frozen=True, kw_only=True)
class SparseGPT(Pruner):
    """Prune by the loss that removing a weight costs when the others are corrected for it.

    The mask of a block of columns is chosen over all rows at once, when the block is reached.

    Source: arXiv:2301.00774, alg. 1. Departures: a zero stays zero and counts as removed; a dead input loses
    its weights first, but only within the count.
    """

    needs_calibration: ClassVar[bool] = True

    block_columns: int = 128
    """Columns whose mask is chosen together; changes speed and, slightly, the result. A multiple of m in n:m."""
    damping_fraction: float | int = 0.01
    """Fraction of the Hessian's mean diagonal added to its diagonal, (0, 1]; ten times more where that fails."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "damping_fraction", float(self.damping_fraction))

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        columns, damping = self.block_columns, self.damping_fraction
        if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
            faults.append(f"block_columns={columns!r}: give a whole number of at least 1")
        if isinstance(damping, bool) or not isinstance(damping, float | int) or not 0 < damping <= 1:
            faults.append(f"damping_fraction={damping!r}: give a number in (0, 1], a fraction and not percent")
        return faults

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, "in in"]:
        """The Hessian of the layer's squared output error, up to a factor."""
        return gram(inputs)

    def prepare(self, summed: Float[Tensor, "in in"]) -> InverseFactor:
        return factor_inverse(summed, self.damping_fraction)

    def notes(self, prepared: InverseFactor) -> dict[str, Any]:
        raised = prepared.damping_fraction > self.damping_fraction
        return {"damping_raised": prepared.damping_fraction} if raised else {}

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: InverseFactor,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "out in"]:
        upper, zeros = prepared.upper, weight == 0
        solved, errors = torch.empty_like(weight), torch.empty_like(weight)
        for start, stop in self._blocks(weight.shape[1]):
            # All corrections that earlier blocks owe this one, in one product.
            block = torch.addmm(weight[:, start:stop], errors[:, :start], upper[:start, start:stop], alpha=-1)
            scale = prepared.scale[start:stop]
            dead = zeros[:, start:stop]
            keep = ~dead if self.group else self.keep(block.abs() * scale, dead)  # groups are chosen on the way
            errors[:, start:stop] = solve_columns(block, keep, upper[start:stop, start:stop], scale, self.group)
            solved[:, start:stop] = block
        return torch.where(zeros, weight, solved)

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(1, rows * (stop - start)) for start, stop in self._blocks(columns)]

    def _blocks(self, columns: int) -> list[tuple[int, int]]:
        """First and last + 1 column of each block, the last perhaps narrower; groups of a pattern stay whole."""
        step = self.block_columns
        if self.group:
            step = max(step // self.group[1], 1) * self.group[1]
        return [(start, min(start + step, columns)) for start in range(0, columns, step)]
