"""Scale the inputs that matter most before weights are rounded, and clip the range of each group."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.scale_folding import Place
from slimsweep.numerics import uniform_grid
from slimsweep.numerics.hessian import gram
from slimsweep.numerics.uniform_grid import Grid
from slimsweep.techniques.quantization.base import UniformGrid, flag_faults
from slimsweep.techniques.quantization.rescaling import Inputs, RescalingQuantizer, Scale

LEAST = 1e-4
"""Fraction of the mean magnitude; channels that are weaker count as this strong."""
SHRINKS = [1 - step / 20 for step in range(10)]
"""Fractions of a group's range that are tried, 1 to 0.55 as in the paper's code."""


@dataclass(frozen=True, kw_only=True)
class AWQ(UniformGrid, RescalingQuantizer):
    """Round to nearest after a search for scales of input channels, then one for the range of each group.

    The scale of a channel is its mean magnitude to the power alpha, normalised. The chosen alpha has the smallest
    squared output error, summed over all targeted layers that read the channels. The inverse scales are folded into
    the operation before: a norm, the rows of the value projection, or the rows that make gated or ReLU neurons. The
    report lists the layers without such an operation (`not_scaled`). Queries and keys are not clipped.

    Source: arXiv:2306.00978, eq. 4-5, and sec. 5 for clipping. Departures: the error is that of the layers
    themselves, tr(D H D^T) for an error D of the weights and H = X^T X. The paper's code runs whole attention and MLP
    modules on stored inputs. Value heads shared by several query heads are scaled too. Both ends of a group's range
    shrink by one factor, where the code clips magnitudes.
    """

    version: ClassVar[int] = 2

    steps: int = 20
    """Number of powers that are tried: 0, 1/steps, ... below 1."""
    scale_search: bool = True
    """Whether channels are scaled."""
    clip_search: bool = True
    """Whether ranges are clipped."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            faults.append(f"steps={self.steps!r}: give a whole number of at least 1")
        for name in ("scale_search", "clip_search"):
            faults += flag_faults(name, getattr(self, name))
        return faults

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, "row in"]:
        """The Gram matrix of the inputs, and below it the sum of their magnitudes."""
        return torch.cat([gram(inputs), inputs.float().abs().sum(dim=0, keepdim=True)])

    def rescales(self, place: Place) -> bool:
        return self.scale_search

    def choose(
        self,
        place: Place,
        weight: Float[Tensor, "out in"],
        seen: Float[Tensor, "row in"],
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Scale | None:
        hessian, reads = seen[:-1], place.reads.to(seen.device)
        magnitude = torch.zeros(len(place.makes), device=seen.device).index_add_(0, reads, seen[-1])
        if not bool(magnitude.any()):
            return None
        relative = (magnitude / magnitude.mean()).clamp(min=LEAST)

        def channels(step: int) -> Float[Tensor, " channel"]:
            powers = relative ** (step / self.steps)
            return powers / (powers.max() * powers.min()).sqrt()

        def error(step: int) -> float:
            columns = channels(step)[reads]
            rounded = self._levels(weight * columns, removed).fake_quantize(weight * columns)
            return output_error(rounded.div_(columns).sub_(weight), hessian)

        errors = [error(step) for step in range(self.steps)]
        best = errors.index(min(errors))
        gain = errors[best] / errors[0] if errors[0] > 0 else 1.0
        return Scale(channels(best), {"scaled": {"alpha": best / self.steps, "error": gain}})

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Inputs,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> IntegerLinear:
        shrink: float | Tensor = 1.0
        if self.clip_search:
            hessian = prepared.seen[:-1]
            if prepared.divided is not None:
                hessian = hessian / torch.outer(prepared.divided, prepared.divided)
            shrink = self.best_shrink(weight, hessian, removed)
            if prepared.protected is not None:
                shrink[prepared.protected.to(shrink.device)] = 1.0
        levels = self._levels(weight, removed, shrink)
        return IntegerLinear.from_codes(levels, levels.quantize(weight))

    def best_shrink(
        self,
        weight: Float[Tensor, "out in"],
        hessian: Float[Tensor, "in in"],
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Float[Tensor, "out group"]:
        """Fraction of each group's range that leaves the smallest squared error of the group's own output."""
        size = self.group_size or weight.shape[1]
        parts = hessian.unflatten(0, (-1, size)).unflatten(2, (-1, size)).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        best = torch.ones(len(weight), len(parts), device=weight.device)
        least = torch.full_like(best, torch.inf)
        for shrink in SHRINKS:
            rounded = self._levels(weight, removed, shrink).fake_quantize(weight)
            difference = rounded.sub_(weight).unflatten(1, (-1, size)).transpose(0, 1)
            error = (difference @ parts * difference).sum(dim=2).T
            best = torch.where(error < least, shrink, best)
            least = torch.minimum(error, least)
        return best

    def _levels(
        self,
        weight: Float[Tensor, "out in"],
        removed: Bool[Tensor, "out in"] | None,
        shrink: float | Tensor = 1.0,
    ) -> Grid:
        levels = uniform_grid.fit(weight, self.grid, self.bits, self.group_size, clip=shrink)
        return levels.with_zero(self.zeros(removed))


def output_error(difference: Float[Tensor, "out in"], hessian: Float[Tensor, "in in"]) -> float:
    """Squared error of a layer's outputs over all tokens: the trace of difference H difference^T."""
    return float((difference @ hessian).mul_(difference).sum())
