"""Uniform grids: the levels that rows or groups of a weight are rounded to."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

GRIDS = ("symmetric", "asymmetric", "minimum")
"""`symmetric`: levels around 0; `asymmetric`: an integer zero-point, so that 0 is a level; `minimum`: the group's own
minimum in fp32 as the lowest level (the grid of GGUF's Q4_1), of which 0 is one only where a group holds zeros."""
SCALE_DTYPES = {"symmetric": torch.bfloat16, "asymmetric": torch.bfloat16, "minimum": torch.float16}
"""Storage dtypes of scales: bf16 reads the same in a model of any dtype; fp16 is what Q4_1 has."""


@dataclass(frozen=True)
class Grid:
    """Levels scale x (code - zero), or scale x code + minimum, for each group of inputs of each row.

    Scales are rounded to the dtype they are stored in before anything is rounded to the grid.
    """

    kind: str
    bits: int
    scale: Float[Tensor, "out group"]
    zero: Float[Tensor, "out group"]
    """Code that stands for 0; whole numbers. Not used by `minimum`."""
    minimum: Float[Tensor, "out group"] | None = None

    @property
    def lowest(self) -> int:
        return -(2 ** (self.bits - 1))

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def offset(self) -> Float[Tensor, "out group"]:
        """Code of the level that is `minimum`, or 0 where there is none."""
        return self.zero if self.minimum is None else torch.full_like(self.zero, self.lowest)

    @property
    def planes(self) -> Float[Tensor, "3 group out"]:
        """Scales, offsets and minima (0 where there is none), those of all rows side by side in memory."""
        minimum = torch.zeros_like(self.scale) if self.minimum is None else self.minimum
        return torch.stack([self.scale.T, self.offset.T, minimum.T])

    def group_of(self, width: int) -> Int[Tensor, " in"]:
        """Group index of each of `width` inputs."""
        groups = self.scale.shape[1]
        return torch.arange(groups, device=self.scale.device).repeat_interleave(width // groups)

    def columns(self, width: int) -> "Grid":
        """The same grid with one column for each of `width` inputs."""

        def spread(values: Float[Tensor, "out group"]) -> Float[Tensor, "out in"]:
            return values.repeat_interleave(width // values.shape[1], dim=1)

        minimum = None if self.minimum is None else spread(self.minimum)
        return Grid(self.kind, self.bits, spread(self.scale), spread(self.zero), minimum)

    def part(self, columns: Int[Tensor, " column"] | slice) -> "Grid":
        """Some columns of a grid that has one for each input, or some groups of one that has not."""
        minimum = None if self.minimum is None else self.minimum[:, columns]
        return Grid(self.kind, self.bits, self.scale[:, columns], self.zero[:, columns], minimum)

    def rows(self, rows: slice) -> "Grid":
        """The grids of some rows."""
        minimum = None if self.minimum is None else self.minimum[rows]
        return Grid(self.kind, self.bits, self.scale[rows], self.zero[rows], minimum)

    @classmethod
    def beside(cls, grids: "list[Grid]") -> "Grid":
        """Grids of neighbouring groups as one."""
        first = grids[0]
        scale, zero = torch.cat([grid.scale for grid in grids], dim=1), torch.cat([grid.zero for grid in grids], dim=1)
        minimum = None if first.minimum is None else torch.cat([grid.minimum for grid in grids], dim=1)
        return cls(first.kind, first.bits, scale, zero, minimum)

    def quantize(self, weight: Float[Tensor, "out in"]) -> Int[Tensor, "out in"]:
        """Code of the level nearest to each weight, `lowest` to `highest`; of two equally near the even one."""
        return self._steps(weight).to(torch.int8).flatten(1)

    def dequantize(self, codes: Int[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The levels of codes, in fp32."""
        by_input = self.columns(codes.shape[1])
        steps = (codes.float() - by_input.offset) * by_input.scale
        return steps if by_input.minimum is None else steps + by_input.minimum

    def fake_quantize(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Each weight's nearest level, in fp32: the values of its codes, bit for bit, in fewer passes."""
        steps = self._steps(weight).sub_(self.offset[:, :, None]).mul_(self.scale[:, :, None])
        return (steps if self.minimum is None else steps.add_(self.minimum[:, :, None])).flatten(1)

    def clipped(self, weight: Float[Tensor, "out in"]) -> Bool[Tensor, "out in"]:
        """True where a weight lies so far beyond the outermost levels that one more level would be nearer."""
        steps = self._unclipped(weight)
        return ((steps < self.lowest) | (steps > self.highest)).flatten(1)

    def _steps(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out group in_group"]:
        """Codes as fp32, by groups."""
        return self._unclipped(weight).clamp_(self.lowest, self.highest)

    def _unclipped(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out group in_group"]:
        """Codes as if there were levels without end, as fp32, by groups."""
        groups = _groups(weight, self.scale.shape[1])
        shifted = groups if self.minimum is None else groups - self.minimum[:, :, None]
        return (shifted / self.scale[:, :, None]).round_().add_(self.offset[:, :, None])

    def with_zero(self, zeros: Bool[Tensor, "out in"] | None) -> "Grid":
        """A grid that has 0 among its levels wherever a group holds zeros; only `minimum` ever has not.

        The levels move by at most half a step; where they all lie on one side of 0, their range is widened to it.
        """
        if self.minimum is None or zeros is None:
            return self
        holds, steps = _groups(zeros, self.scale.shape[1]).any(dim=2), 2**self.bits - 1
        below = (-self.minimum / self.scale).round()
        low, high = self.minimum.clamp(max=0), (self.minimum + steps * self.scale).clamp(min=0)
        wide = _stored((high - low) / steps, SCALE_DTYPES[self.kind])
        scale = torch.where(holds & ((below < 0) | (below > steps)), wide, self.scale)
        # scale x k is exact in fp32 for an fp16 scale, so the level k is exactly 0.
        moved = (low / scale).round().clamp(min=-steps) * scale
        return Grid(self.kind, self.bits, scale, self.zero, torch.where(holds, moved, self.minimum))


def fit(
    weight: Float[Tensor, "out in"],
    kind: str,
    bits: int,
    group_size: int | None,
    clip: float | Float[Tensor, "out group"] = 1.0,
) -> Grid:
    """The grid that spans each group's values, or `clip` times their range, about 0 or about its centre (`minimum`).

    Args:
        group_size: neighbouring inputs that share a scale; None: the whole row. Must divide the input width.
    Source: arXiv:2210.17323, sec. 4 (min-max grids of GPTQ and of round to nearest).
    """
    groups = _groups(weight, 1 if group_size is None else weight.shape[1] // group_size)
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    centre = (low + high) / 2 if kind == "minimum" else torch.zeros_like(low)  # of the other grids 0 stays a level
    if not isinstance(clip, float) or clip != 1:
        low, high = centre + (low - centre) * clip, centre + (high - centre) * clip
    return spanning(low, high, kind, bits)


def spanning(low: Float[Tensor, "out group"], high: Float[Tensor, "out group"], kind: str, bits: int) -> Grid:
    """The grid of groups whose values lie from `low` to `high`."""
    steps, dtype = 2**bits - 1, SCALE_DTYPES[kind]
    if kind == "symmetric":
        reach = torch.maximum(low.abs(), high.abs())
        scale = _stored(2 * reach / steps, dtype)
        return Grid(kind, bits, scale, torch.zeros_like(scale))
    if kind == "minimum":
        span = torch.where(high > low, high - low, low.abs())  # any scale serves equal weights; this one fits them
        scale = _stored(span / steps, dtype)
        return Grid(kind, bits, scale, torch.zeros_like(scale), low)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _stored((high - low) / steps, dtype)
    zero = ((-low / scale).round() - 2 ** (bits - 1)).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Grid(kind, bits, scale, zero)


def _stored(scale: Float[Tensor, "out group"], dtype: torch.dtype) -> Float[Tensor, "out group"]:
    """A scale as its dtype holds it, never 0 or infinite; a group without range gets a scale of 1."""
    limits = torch.finfo(dtype)
    rounded = scale.clamp(min=limits.tiny * limits.eps, max=limits.max).to(dtype).float()
    return torch.where(scale > 0, rounded, 1.0)


def _groups(values: Tensor, count: int) -> Tensor:
    """[out in] as [out group in-of-group]."""
    return values.unflatten(1, (count, -1))
