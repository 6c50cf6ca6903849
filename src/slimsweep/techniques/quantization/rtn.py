"""Round each weight to the nearest level of its group."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.linear.uniform import IntegerLinear
from slimsweep.numerics import uniform_grid
from slimsweep.techniques.quantization.base import Quantizer, UniformGrid


@dataclass(frozen=True, kw_only=True)
class RTN(UniformGrid, Quantizer):
    """Round to nearest on min-max grids. Source: arXiv:2210.17323, sec. 4 (its baseline RTN)."""

    version: ClassVar[int] = 2

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> IntegerLinear:
        levels = uniform_grid.fit(weight, self.grid, self.bits, self.group_size).with_zero(self.zeros(removed))
        return IntegerLinear.from_codes(levels, levels.quantize(weight))
