"""Remove the weights that move their row's output least."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep import masks
from slimsweep.hessian import squared_norm
from slimsweep.pruning import Pruner


@dataclass(frozen=True, kw_only=True)
class Wanda(Pruner):
    """Prune by weight magnitude times input norm, row by row. Source: arXiv:2306.11695, eq. 1."""

    needs_calibration: ClassVar[bool] = True
    statistic_name: ClassVar[str] = "squared_norm"

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, " in"]:
        """Squared norm of each input over all tokens."""
        return squared_norm(inputs)

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Float[Tensor, " in"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "out in"]:
        score = weight.abs() * prepared.sqrt()
        return masks.remove(weight, self.keep(score, weight == 0, unit="row"))

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(rows, columns)]
