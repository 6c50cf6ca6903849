"""Remove the smallest weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimsweep import masks
from slimsweep.layerwise import LayerReport, replace_weight
from slimsweep.models.language_model import LanguageModel, matrix
from slimsweep.pruning import Pruner
from slimsweep.techniques.base import StageReport

SCOPES = ("layer", "row", "global")


@dataclass(frozen=True, kw_only=True)
class Magnitude(Pruner):
    """Prune by the weights' absolute values. Source: Han et al., arXiv:1506.02626."""

    scope: str = "layer"
    """What weights are ranked in: their `layer`, their `row`, or all targeted layers together (`global`).

    A pattern n:m ranks within its groups, whatever the scope."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        return faults if self.scope in SCOPES else [*faults, f"scope={self.scope!r}: give {' or '.join(SCOPES)}"]

    def units(self, rows: int, columns: int) -> list[tuple[int, int]]:
        return [(rows, columns)] if self.scope == "row" else super().units(rows, columns)

    def compress_layer(
        self, weight: Float[Tensor, "out in"], prepared: Any = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "out in"]:
        return masks.remove(weight, self.keep(weight.abs(), weight == 0, unit=self.scope))

    @property
    def _is_global(self) -> bool:
        return self.scope == "global" and not self.group

    @property
    def works_by_block(self) -> bool:
        return not self._is_global

    def one_pass(self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int) -> StageReport:
        if not self._is_global:
            return super().one_pass(model, token_ids, seed)
        if model.is_meta:
            planned = super().one_pass(model, token_ids, seed)
            return StageReport(planned.layers, {"zeros_by_layer": "only their sum is known without weights"})
        weights = {name: matrix(layer) for name, layer in self.targets(model).items()}

        def magnitudes() -> Iterator[Float[Tensor, " weight"]]:
            return (weight.float().abs().flatten() for weight in weights.values())

        return StageReport(self._drop_lowest(model, weights, magnitudes))

    @torch.no_grad()
    def _drop_lowest(
        self, model: LanguageModel, weights: dict[str, Tensor], magnitudes: Callable[[], Iterator[Tensor]]
    ) -> list[LayerReport]:
        """Zero the lowest of all layers together; among equals the first layers' first weights go first."""
        total = sum(weight.numel() for weight in weights.values())
        zeros = sum(int((magnitude == 0).sum()) for magnitude in magnitudes())
        count = self._dropped(total, zeros)
        threshold, room = masks.lowest_overall(magnitudes, count)
        reports = []
        for (name, weight), magnitude in zip(weights.items(), magnitudes(), strict=True):
            tied = magnitude == threshold
            tied &= tied.cumsum(0) <= room
            room -= int(tied.sum())
            keep = ~(tied | (magnitude < threshold)).view_as(weight)
            reports.append(replace_weight(model, name, masks.remove(weight.float(), keep)))
        return reports

    def _dropped(self, total: int, zeros: int) -> int:
        if self.of == "original":
            return max(zeros, masks.drop_count(self.ratio, total))
        return zeros + masks.drop_count(self.ratio, total - zeros)

    def plan(self, layers: dict[str, tuple[int, int]], zeros: dict[str, int]) -> dict[str, int]:
        if not self._is_global:
            return super().plan(layers, zeros)
        sizes = [rows * columns for rows, columns in layers.values()]
        before = sum(zeros.get(name, 0) for name in layers)
        return dict(zip(layers, masks.spread(self._dropped(sum(sizes), before), sizes), strict=True))
