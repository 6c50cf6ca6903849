"""Remove the smallest weights."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.blockwise.layer_method import Pruned
from slimsweep.blockwise.layerwise import LayerReport, replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.linear.mask import removed as removed_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics import counts, masks
from slimsweep.techniques.base import Requirements, StageReport
from slimsweep.techniques.pruning.base import Pruner

SCOPES = ("layer", "row", "global")


@dataclass(frozen=True, kw_only=True)
class Magnitude(Pruner):
    """Prune by the weights' absolute values. Source: Han et al., arXiv:1506.02626."""

    version: ClassVar[int] = 2

    scope: str = "layer"
    """Unit that weights are ranked in: their `layer`, their `row`, or all targeted layers together (`global`).

    A pattern n:m ranks within its groups, whatever the scope."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        return faults if self.scope in SCOPES else [*faults, f"scope={self.scope!r}: give {' or '.join(SCOPES)}"]

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(rows, columns)] if self.scope == "row" else super().units(rows, columns)

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Pruned:
        keep = self.keep(weight.abs(), removed, unit=self.scope)
        return Pruned(masks.remove(weight, keep), keep)

    @property
    def _is_global(self) -> bool:
        return self.scope == "global" and not self.group

    @property
    def requirements(self) -> Requirements:
        return dataclasses.replace(super().requirements, whole_model=self._is_global)

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        return StageReport(self._drop_lowest(model)) if self._is_global else super().walk(model, context)

    def plan(self, skeleton: Skeleton) -> StageReport:
        report = super().plan(skeleton)
        if self._is_global:
            report.notes["zeros_by_layer"] = "only their sum is known without weights"
        return report

    @torch.no_grad()
    def _drop_lowest(self, model: LanguageModel) -> list[LayerReport]:
        """Zero the lowest of all layers together; among equals the first layers' first weights go first."""
        layers = self.targets(model)
        weights = {name: weight_2d(layer) for name, layer in layers.items()}

        def magnitudes() -> Iterator[Float[Tensor, " weight"]]:
            """Magnitudes of each layer's weights that no stage removed yet."""
            for name, layer in layers.items():
                removed = removed_of(layer)
                magnitude = weights[name].float().abs()
                yield magnitude.flatten() if removed is None else magnitude[~removed]

        total = sum(weight.numel() for weight in weights.values())
        before = total - sum(len(magnitude) for magnitude in magnitudes())
        dropped = counts.drop_total(before, total, self.ratio, self.relative_to)
        threshold, room = masks.lowest_overall(magnitudes, dropped - before)
        reports = []
        for (name, layer), magnitude in zip(layers.items(), magnitudes(), strict=True):
            tied = magnitude == threshold
            tied &= tied.cumsum(0) <= room
            room -= int(tied.sum())
            removed, weight = removed_of(layer), weights[name].float()
            keep = torch.ones_like(weight, dtype=torch.bool) if removed is None else ~removed
            keep[keep.clone()] = ~(tied | (magnitude < threshold))
            reports.append(replace_weight(model, name, Pruned(masks.remove(weight, keep), keep)))
        return reports

    def planned_zeros(self, layers: dict[str, tuple[int, int]], zeros: dict[str, int]) -> dict[str, int]:
        if not self._is_global:
            return super().planned_zeros(layers, zeros)
        sizes = [rows * columns for rows, columns in layers.values()]
        before = sum(zeros.get(name, 0) for name in layers)
        dropped = counts.drop_total(before, sum(sizes), self.ratio, self.relative_to)
        return dict(zip(layers, counts.spread(dropped, sizes), strict=True))
