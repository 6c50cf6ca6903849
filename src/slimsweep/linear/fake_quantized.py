"""A linear layer that is being trained for the uniform grid it will be stored on."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from slimsweep.linear.mask import removed, set_removed
from slimsweep.linear.orientation import layer_shape, weight_2d
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.numerics import straight_through, uniform_grid
from slimsweep.numerics.uniform_grid import Grid


class FakeQuantizedLinear(nn.Linear):
    """A plain layer that computes with the nearest levels of its fp32 weight; gradients reach the weight.

    The grid is fitted to the weight anew at each forward, as round to nearest fits it. So `packed` stores what the
    layer computes with, whatever the training has done.
    """

    def __init__(self, layer: nn.Module, bits: int, group_size: int | None, grid: str, is_masked: bool = True):
        """Stand in for a plain or packed layer, whose bias and, where it is plain and in fp32, weight it shares.

        Args:
            is_masked: whether weights that a pruning stage removed stay zero; else they are ordinary weights.
        """
        rows, columns = layer_shape(layer)
        super().__init__(columns, rows, bias=False, device="meta")
        self.weight = nn.Parameter(weight_2d(layer).float(), requires_grad=False)
        self.bias = layer.bias
        self.bits, self.group_size, self.grid = bits, group_size, grid
        self.zeros: Bool[Tensor, "out in"] | None = removed(layer) if is_masked else None
        """Weights that stay exact zeros; None where there is none."""
        set_removed(self, self.zeros)

    @property
    def levels(self) -> Grid:
        """The grid of the weight as it is now."""
        with torch.no_grad():
            return uniform_grid.fit(self.weight.detach(), self.grid, self.bits, self.group_size).with_zero(self.zeros)

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        weight = straight_through.round_to(self.weight, self.levels)
        return functional.linear(inputs, weight.to(inputs.dtype), self.bias)

    def packed(self) -> IntegerLinear:
        """The layer that stores what this one computes with; bias and dtype are set where it is put in place."""
        levels = self.levels
        return IntegerLinear.from_codes(levels, levels.quantize(self.weight.detach()))
