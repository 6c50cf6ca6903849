"""Bases of pruners: counts, passes, and the plan on shapes alone."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, number_faults, whole_number_faults
from slimsweep.linear.base import layer_shape
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics import counts, masks
from slimsweep.techniques.base import StageReport, Technique
from slimsweep.techniques.layer_names import format_layer_names
from slimsweep.techniques.layerwise import LayerTargets, LayerWalk


@dataclass(frozen=True, kw_only=True)
class PruningCounts(LayerTargets):
    """Mix-in of a technique that sets weights to zero, a requested count of them in every unit it ranks in."""

    ratio: float | int
    """Fraction of the targeted weights to remove, [0, 1). With a pattern n:m it is set to 1 - n/m."""
    pattern: str = "unstructured"
    """`unstructured`, or `n:m`: of every m neighbouring inputs, n are kept."""
    relative_to: str = "original"
    """Weights the ratio is a fraction of: the `original` ones (removed ones count), or those `remaining`."""
    passes: int = 1
    """Times the stage is applied, each time to what the pass before left, with statistics and draws of its own.

    A second pass of the original changes nothing; n passes of the remaining leave (1 - ratio)^n."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group:
            kept, size = self.group
            object.__setattr__(self, "ratio", 1 - kept / size)
        object.__setattr__(self, "ratio", float(self.ratio))

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        faults += choice_faults("relative_to", [self.relative_to], counts.RELATIVE_TO)
        faults += whole_number_faults("passes", self.passes)
        try:
            group = masks.parse_pattern(self.pattern)
        except ValueError as error:
            return [*faults, f"pattern={error}"]
        if group and self.relative_to == "remaining":
            faults.append(
                f"relative_to=remaining has no meaning with pattern={self.pattern}: the pattern fixes the count"
            )
        if not group:
            faults += number_faults("ratio", self.ratio, "[0, 1)", "the fraction of weights to remove")
        return faults

    @property
    def group(self) -> tuple[int, int] | None:
        """(n, m) of the pattern; None when unstructured."""
        return masks.parse_pattern(self.pattern)

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = super().faults(skeleton)
        widths = {name: layer_shape(layer)[1] for name, layer in self.targets(skeleton).items()}
        if self.group and (odd := {name: width for name, width in widths.items() if width % self.group[1]}):
            common = math.gcd(*widths.values())
            faults.append(
                f"pattern={self.pattern} needs input widths divisible by {self.group[1]}; these are not: "
                f"{format_layer_names(odd)}. Exclude them with "
                "exclude=[...]" + (f", or choose an m that divides {common}." if common > 1 else ".")
            )
        return faults

    def keep(
        self, score: Float[Tensor, "out in"], removed: Bool[Tensor, "out in"] | None, unit: str = "layer"
    ) -> Bool[Tensor, "out in"]:
        """Keep-mask of the highest scores by this technique's ratio or pattern.

        Weights that an earlier stage removed stay removed at any score, and count. `unit` is what an unstructured ratio
        ranks in: `layer` (everything given) or `row`.
        """
        shape = score.shape
        if removed is not None:
            score = score.masked_fill(removed, -1)
        if not self.group and unit == "layer":
            present = torch.zeros(1, dtype=torch.int64) if removed is None else removed.count_nonzero()[None]
            (dropped,) = counts.drop_counts(present, score.numel(), self.ratio, self.relative_to).tolist()
            return masks.keep_highest_of_all(score, dropped)
        score = score.reshape((-1, self.group[1]) if self.group else score.shape)
        if removed is None:
            present = torch.zeros(len(score), dtype=torch.int64, device=score.device)
        else:
            present = removed.reshape(score.shape).sum(dim=1)
        if self.group:
            dropped = present.clamp(min=self.group[1] - self.group[0])
        else:
            dropped = counts.drop_counts(present, score.shape[1], self.ratio, self.relative_to)
        return masks.keep_highest(score, dropped).view(shape)

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        """(how many, of how many weights) of the units a layer is ranked in."""
        return [(1, rows * columns)]

    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Every pass; the report is that of the last."""
        reports = []
        for number in range(self.passes):
            reports.append(self.walk(model, _context_of_pass(context, number)))
        return self._last(reports)

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Plan the zeros of every pass; the report is that of the last."""
        return self._last([self._plan_pass(skeleton) for _ in range(self.passes)])

    def _last(self, reports: list[StageReport]) -> StageReport:
        """Report of the last pass, with the zeros of each where there are several."""
        if self.passes > 1:
            zeros = [sum(layer.zeros for layer in report.layers) for report in reports]
            reports[-1].notes["zeros_by_pass"] = zeros
            reports[-1].layers[:] = [replace(layer, change=None) for layer in reports[-1].layers]
        return reports[-1]

    def _plan_pass(self, skeleton: Skeleton) -> StageReport:
        shapes = {name: layer_shape(layer) for name, layer in self.targets(skeleton).items()}
        skeleton.zeros.update(self.planned_zeros(shapes, skeleton.zeros))
        return super().plan(skeleton)

    def planned_zeros(self, layers: dict[str, tuple[int, int]], zeros: dict[str, int]) -> dict[str, int]:
        """Removed weights of each layer after this stage, from shapes [out in] and those planned before.

        Those of an earlier stage are taken as evenly spread over the units.
        """
        return {name: self._planned(shape, zeros.get(name, 0)) for name, shape in layers.items()}

    def _planned(self, shape: tuple[int, int], zeros: int) -> int:
        if self.group:
            return max(zeros, counts.pattern_drop_count(math.prod(shape), self.group))
        units = self.units(*shape)
        if self.relative_to == "original":
            return max(zeros, sum(count * counts.drop_count(self.ratio, size) for count, size in units))
        sizes = [size for count, size in units for _ in range(count)]
        remaining = [size - zero for size, zero in zip(sizes, counts.spread(zeros, sizes), strict=True)]
        return zeros + sum(counts.drop_count(self.ratio, size) for size in remaining)


@dataclass(frozen=True, kw_only=True)
class Pruner(PruningCounts, LayerWalk, Technique):
    """A technique that prunes each layer by itself: a subclass writes `compress_layer`."""


def _context_of_pass(context: StageContext, number: int) -> StageContext:
    """The context itself for the first pass.

    Later ones draw anew, and not as the first pass of another seed does. Kept statistics are of the weights before the
    first pass, so later ones collect their own.
    """
    if number == 0:
        return context
    digest = hashlib.sha256(f"{context.seed} pass {number}".encode()).digest()
    return dataclasses.replace(context, seed=int.from_bytes(digest[:7], "big"), statistics=None)
