"""Remove coupled parts: heads and neurons of a range of blocks, or residual channels everywhere."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.removal_walk import (
    Choice,
    lowest_units,
    lowest_units_overall,
)
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults
from slimsweep.models import anatomy
from slimsweep.models.anatomy import HEADS, NEURONS, Units, units_of
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.surgery import remove
from slimsweep.numerics import counts
from slimsweep.techniques.base import Requirements, Technique
from slimsweep.techniques.structured import importance
from slimsweep.techniques.structured.base import UnitRemoval, last_first

LEVELS = ("block", "channel")
IMPORTANCES = ("taylor", "l1", "l2", "random")
RANKINGS = ("local", "global")
KEPT_FIRST, KEPT_LAST = 4, 2

Measure = Callable[[list[Units]], list[Float[Tensor, " unit"]]]
"""Scores of the units of some places, of the model as it is now."""


@dataclass(frozen=True, kw_only=True)
class LLMPruner(UnitRemoval, Technique):
    """Prune groups of weights that depend on each other.

    Level `block` removes heads (whole key/value groups) and MLP neurons of a range of blocks, level `channel`
    residual channels of the whole model. Widths keep floor(width x (1 - ratio)).

    Source: arXiv:2305.11627. Departures: the squared gradients of the second order are of single sequences; with a
    global ranking each block keeps the best of its units.
    """

    level: str = "block"
    """`block`: heads and neurons within blocks; `channel`: the residual width, in every block."""
    importance: str = "taylor"
    """`taylor` (gradients on calibration text), `l1` or `l2` (norms of the weights), or `random`."""
    order: str = "first"
    """Terms of the Taylor expansion: `first`, `second` or `mixed` (both)."""
    taylor: str = "element"
    """Absolute value of each weight's term (`element`) or of each row's sum (`vector`)."""
    aggregate: str = "sum"
    """Function that aggregates the scores of a unit's parts: `sum`, `mean`, `max`, or only the `first` part."""
    ranking: str = "local"
    """Lowest of each block (`local`) or of all blocks together (`global`); heads and neurons apart."""
    steps: int = 1
    """Removals in equal portions, the importance measured anew before each."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        for name, allowed in (
            ("level", LEVELS),
            ("importance", IMPORTANCES),
            ("order", importance.ORDERS),
            ("taylor", importance.TAYLOR),
            ("aggregate", importance.AGGREGATES),
            ("ranking", RANKINGS),
        ):
            faults += choice_faults(name, [getattr(self, name)], allowed)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            faults.append(f"steps={self.steps!r}: give a whole number of at least 1")
        if self.importance != "taylor" and (self.order, self.taylor) != ("first", "element"):
            faults.append(f"order and taylor mean nothing to importance={self.importance}: leave them out")
        if self.importance == "random" and self.aggregate != "sum":
            faults.append("aggregate means nothing to importance=random: leave it out")
        if self.level == "channel" and self.ranking != "local":
            faults.append("ranking means nothing at level=channel, where there is one set of channels: leave it out")
        if self.level == "channel" and self.repair is True:
            faults.append("repair=true has nothing to fit at level=channel: set repair=false")
        if self.level == "channel" and self.blocks is not None:
            faults.append("blocks has no meaning at level=channel, which removes from every block: set blocks=null")
        return faults

    @property
    def requirements(self) -> Requirements:
        is_taylor = self.importance == "taylor"
        return Requirements(calibration=is_taylor or self.repair, gradients=is_taylor, seed=self.importance == "random")

    @property
    def kinds(self) -> tuple[str, ...]:
        return (HEADS, NEURONS)

    def default_layers(self, blocks: int) -> tuple[int, int]:
        """All but the first four and the last two, where errors cost most; of six or less, the inner ones."""
        return (KEPT_FIRST, blocks - KEPT_LAST - 1) if blocks > KEPT_FIRST + KEPT_LAST else (1, blocks - 2)

    def faults(self, skeleton: LanguageModel) -> list[str]:
        if self.level == "block":
            return super().faults(skeleton)
        if faults := self._form_faults(skeleton):
            return faults
        if skeleton.family.encoder is not None:
            return [
                "level=channel removes from one stack of blocks, and this model has an encoder and a decoder: set "
                "level=block"
            ]
        width = anatomy.channel_count(skeleton)
        if counts.kept_count(self.ratio, width) > 0:
            return []
        most = math.floor(10_000 * (1 - 1 / width)) / 10_000
        return [f"ratio={self.ratio:g} leaves no channel of {width}: give at most {most:g}"]

    def reduce(self, model: LanguageModel, context: StageContext) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(context.seed)

        def measure(units: list[Units]) -> list[Float[Tensor, " unit"]]:
            return self._scores(model, units, context.batches, generator)

        text = context.batches if self.repair else None
        if self.level == "channel":
            return self._remove_channels(model, measure)
        return self._remove_units(model, measure, self.ranking, text)

    def plan_removal(self, skeleton: Skeleton) -> list[dict[str, Any]]:
        def measure(units: list[Units]) -> list[Float[Tensor, " unit"]]:
            return [last_first(place_units) for place_units in units]

        if self.level == "channel":
            return self._remove_channels(skeleton, measure)
        return self._remove_units(skeleton, measure, "local", None)

    def _remove_units(
        self,
        model: LanguageModel,
        measure: Measure,
        ranking: str,
        batch: Batch | None,
    ) -> list[dict[str, Any]]:
        """Remove heads and neurons in steps, each measured anew."""
        totals = {
            (index, kind): self.removed_count(units_of(model, kind, index))
            for index, kinds in self.kinds_by_block(model).items()
            for kind in kinds
        }
        entries = []
        for step in range(1, self.steps + 1):
            due = {place: counts.share_of_step(total, step, self.steps) for place, total in totals.items()}
            units = {(index, kind): units_of(model, kind, index) for index, kind in due}
            removed = self._ranked(dict(zip(units, measure(list(units.values())), strict=True)), due, ranking)
            entries += self.remove_chosen(
                model, lambda i, units, _, removed=removed: Choice(removed[i, units.kind]), batch
            )
        return entries

    def _ranked(
        self, scores: dict[tuple[int, str], Float[Tensor, " unit"]], due: dict[tuple[int, str], int], ranking: str
    ) -> dict[tuple[int, str], list[int]]:
        """The units to remove now, by block and kind."""
        if ranking == "local":
            return {place: lowest_units(values, due[place]) for place, values in scores.items()}
        removed = {}
        for kind in dict.fromkeys(kind for _, kind in scores):
            places = {place: values for place, values in scores.items() if place[1] == kind}
            removed |= lowest_units_overall(places, sum(due[place] for place in places))
        return removed

    def _scores(
        self,
        model: LanguageModel,
        units: list[Units],
        batch: Batch | None,
        generator: torch.Generator,
    ) -> list[Float[Tensor, " unit"]]:
        if self.importance == "taylor":
            return importance.taylor_scores(model, units, batch, self.order, self.taylor, self.aggregate)
        if self.importance == "random":
            return [torch.rand(len(place_units), generator=generator) for place_units in units]
        power = 1 if self.importance == "l1" else 2
        return [importance.norm_scores(place_units, power, self.aggregate) for place_units in units]

    def _remove_channels(self, model: LanguageModel, measure: Measure) -> list[dict[str, Any]]:
        """Remove residual channels in steps, each measured anew."""
        before = anatomy.channel_count(model)
        total = before - counts.kept_count(self.ratio, before)
        for step in range(1, self.steps + 1):
            units = anatomy.channels(model)
            (scores,) = measure([units])
            remove(model, units, lowest_units(scores, counts.share_of_step(total, step, self.steps)))
        return [{"kind": anatomy.CHANNELS, "before": before, "removed": total}]
