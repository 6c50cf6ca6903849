"""Remove the weights that move their row's output least."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.blockwise.layer_method import InputStatistic, Pruned
from slimsweep.numerics import masks
from slimsweep.numerics.finite import all_finite
from slimsweep.numerics.hessian import squared_norm
from slimsweep.techniques.pruning.base import Pruner


@dataclass(frozen=True, kw_only=True)
class Wanda(InputStatistic, Pruner):
    """Prune by weight magnitude times input norm, row by row. Source: arXiv:2306.11695, eq. 1."""

    version: ClassVar[int] = 2
    statistic_name: ClassVar[str] = "squared_norm"

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, " in"]:
        """Squared norm of each input over all tokens."""
        return squared_norm(inputs)

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Float[Tensor, " in"],
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Pruned:
        score = weight.abs() * prepared.sqrt()
        if not all_finite(prepared):  # a zero weight scores 0 whatever its input's norm
            score = score.masked_fill(weight == 0, 0)
        keep = self.keep(score, removed, unit="row")
        return Pruned(masks.remove(weight, keep), keep)

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(rows, columns)]
