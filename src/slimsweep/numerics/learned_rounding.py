"""Uniform grids whose rounding and ranges are learned: fake quantization that gradients pass through.

With V the offset of a weight, and alpha and beta the clip factors of its group's minimum and maximum:

    scale = (max beta - min alpha) / (2^bits - 1)          rounded to the dtype it is stored in
    code  = clamp(round(W / scale + V) + zero)             W~ = (code - zero) scale

With V = 0 and alpha = beta = 1 this is round to nearest, bit for bit. Values are always those of the hard grid: a
gradient passes each rounding as if it were not there (straight-through estimator).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slimsweep.numerics.straight_through import straight_through
from slimsweep.numerics.uniform_grid import Grid, spanning


@dataclass(frozen=True)
class Learned:
    """Trainable tensors of one layer."""

    offset: Float[Tensor, "out in"]
    """V, in [-0.5, 0.5]: steps added before a weight is rounded."""
    low_clip: Float[Tensor, "out group"]
    """alpha, in [0, 1]: factor of each group's minimum."""
    high_clip: Float[Tensor, "out group"]
    """beta, in [0, 1]: factor of each group's maximum."""


@dataclass(frozen=True)
class LearnedRounding:
    """A weight, and the grids that its groups may have.

    Source: arXiv:2309.05516, eq. 3 to 5. Departures: grids are ours, with scales rounded to the dtype they are stored
    in. Ranges of `minimum` grids shrink towards their centre, since 0 need not lie in them.
    """

    weight: Float[Tensor, "out in"]
    kind: str
    bits: int
    group_size: int | None
    """None: one group a row."""
    zeros: Bool[Tensor, "out in"] | None = None
    """Weights that stay exact zeros; their offset has no effect."""

    def start(self) -> Learned:
        """Tensors that round to nearest."""
        width = self.weight.shape[1]
        ones = self.weight.new_ones(len(self.weight), width // (self.group_size or width))
        return Learned(torch.zeros_like(self.weight), ones, ones.clone())

    def quantize(self, learned: Learned) -> tuple[Grid, Int[Tensor, "out in"]]:
        """The hard grid and codes that `fake_quantize` computes with."""
        with torch.no_grad():
            levels = self._levels(learned)
            return levels.grid, self._codes(learned, levels).to(torch.int8).flatten(1)

    def fake_quantize(self, learned: Learned) -> Float[Tensor, "out in"]:
        """The values of these codes in fp32, with gradients for all tensors of `learned`."""
        levels = self._levels(learned)
        values = (self._codes(learned, levels) - levels.zero[:, :, None]) * levels.scale[:, :, None]
        return (values if levels.minimum is None else values + levels.minimum[:, :, None]).flatten(1)

    def _levels(self, learned: Learned) -> "_Levels":
        """The grid of the clipped ranges, and its numbers with gradients."""
        groups = self._groups(self.weight)
        low, high = groups.amin(dim=2), groups.amax(dim=2)
        if self.kind == "minimum":
            centre = (low + high) / 2  # written so that a factor of 1 leaves every bit
            low, high = low + (1 - learned.low_clip) * (centre - low), high + (1 - learned.high_clip) * (centre - high)
        else:
            low, high = low * learned.low_clip, high * learned.high_clip
        hard = spanning(low.detach(), high.detach(), self.kind, self.bits).with_zero(self.zeros)
        steps = 2**self.bits - 1
        if self.kind == "symmetric":
            scale = straight_through(2 * torch.maximum(low.abs(), high.abs()) / steps, hard.scale)
            return _Levels(hard, scale, hard.zero)
        if self.kind == "minimum":
            scale = straight_through((high - low) / steps, hard.scale)
            return _Levels(hard, scale, hard.offset, straight_through(low, hard.minimum))
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = straight_through((high - low) / steps, hard.scale)
        return _Levels(hard, scale, straight_through(-low / scale + hard.lowest, hard.zero))

    def _codes(self, learned: Learned, levels: "_Levels") -> Float[Tensor, "out group in_group"]:
        offset = learned.offset if self.zeros is None else learned.offset.masked_fill(self.zeros, 0)
        groups = self._groups(self.weight)
        shifted = groups if levels.minimum is None else groups - levels.minimum[:, :, None]
        steps = shifted / levels.scale[:, :, None] + self._groups(offset)
        codes = straight_through(steps, steps.detach().round()) + levels.zero[:, :, None]
        return codes.clamp(levels.grid.lowest, levels.grid.highest)

    def _groups(self, values: Float[Tensor, "out in"]) -> Float[Tensor, "out group in_group"]:
        return values.unflatten(1, (-1, self.group_size or values.shape[1]))


@dataclass(frozen=True)
class _Levels:
    """A grid, and its numbers with gradients: equal values."""

    grid: Grid
    scale: Float[Tensor, "out group"]
    zero: Float[Tensor, "out group"]
    """Code of 0, or of the level that is `minimum`."""
    minimum: Float[Tensor, "out group"] | None = None
