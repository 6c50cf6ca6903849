"""Remove whole attention heads, the least important of all blocks first."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.gradients import loss
from slimsweep.blockwise.removal_walk import Choice, lowest_units, lowest_units_overall
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults
from slimsweep.models.anatomy import CROSS_HEADS, HEADS, Units, units_of
from slimsweep.models.batches import Batch, split, to_device, token_mask
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.task import inputs_of
from slimsweep.numerics import counts
from slimsweep.techniques.base import Requirements, Technique
from slimsweep.techniques.structured.base import UnitRemoval, last_first

IMPORTANCES = ("taylor", "confidence")
RANKINGS = ("global", "local")

Place = tuple[int, str]
"""Index of a block, and kind of heads: `heads` or `cross_heads`."""


@dataclass(frozen=True, kw_only=True)
class Heads(UnitRemoval, Technique):
    """Prune attention heads of encoders and decoders; under grouped queries, whole key/value groups.

    Removes floor(ratio x heads) of all blocks together (`global`) or of each (`local`); every block keeps one unit.
    `taylor` is |dL/dg| for a gate g on the head's output: the mean over sequences, scaled to unit length in each block.
    `confidence` is the highest attention weight of each query token, averaged over tokens.

    Source: Michel et al., arXiv:1905.10650, eq. 2; confidence: Voita et al., arXiv:1905.09418, sec. 4.
    """

    importance: str = "taylor"
    """`taylor` or `confidence`; both look at calibration text."""
    ranking: str = "global"
    """Unit that heads are ranked in: all blocks together, or each."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + choice_faults("importance", [self.importance], IMPORTANCES)
        return faults + choice_faults("ranking", [self.ranking], RANKINGS)

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True, gradients=self.importance == "taylor")

    @property
    def kinds(self) -> tuple[str, ...]:
        return (HEADS,)

    def removed_count(self, units: Units) -> int:
        return counts.group_drop_count(self.ratio, len(units) * units.members, units.members)

    def _count_faults(self, skeleton: LanguageModel) -> list[str]:
        if self.ranking == "local":
            return super()._count_faults(skeleton)
        if faults := self._lone_head_faults(skeleton):
            return faults
        units = list(self._units(skeleton).values())
        most = sum(len(block_units) - 1 for block_units in units)
        if self._total(units) <= most:
            return []
        every = sum(len(block_units) for block_units in units)
        return [
            f"ratio={self.ratio:g} would remove {self._total(units)} of {every} heads or groups, and each of "
            f"{len(units)} attentions keeps one: give at most {most / every:.3g}"
        ]

    def _total(self, units: list[Units]) -> int:
        return counts.group_drop_count(
            self.ratio, sum(len(block_units) * block_units.members for block_units in units), units[0].members
        )

    def reduce(self, model: LanguageModel, context: StageContext) -> list[dict[str, Any]]:
        units = self._units(model)
        measure = gate_gradients if self.importance == "taylor" else confidences
        scores = measure(model, units, context.batches)
        removed = self._ranked(units, scores)

        def choose(index: int, its: Units, _seen: Tensor | None) -> Choice:
            place = (index, its.kind)
            return Choice(removed[place], {"scores": [round(float(score), 6) for score in scores[place]]})

        return self.remove_chosen(model, choose, context.batches if self.repair else None)

    def plan_removal(self, skeleton: Skeleton) -> list[dict[str, Any]]:
        units = self._units(skeleton)
        removed = self._ranked(units, {place: last_first(its) for place, its in units.items()})
        sizes = {its.members * its.reader.index.shape[1] for its in units.values()}
        note = {"note": "heads differ in size, and which go is not known without weights: the last were taken"}
        notes = note if self.ranking == "global" and len(sizes) > 1 else {}
        return self.remove_chosen(skeleton, lambda index, its, _: Choice(removed[index, its.kind], notes), None)

    def _units(self, model: LanguageModel) -> dict[Place, Units]:
        return {
            (index, kind): units_of(model, kind, index)
            for index, kinds in self.kinds_by_block(model).items()
            for kind in kinds
        }

    def _ranked(self, units: dict[Place, Units], scores: dict[Place, Float[Tensor, " unit"]]) -> dict[Place, list[int]]:
        """The lowest units of each attention, ranked in it or in all together."""
        if self.ranking == "global":
            return lowest_units_overall(scores, self._total(list(units.values())))
        return {place: lowest_units(values, self.removed_count(units[place])) for place, values in scores.items()}


def gate_gradients(
    model: LanguageModel, units: dict[Place, Units], batch: Batch
) -> dict[Place, Float[Tensor, " unit"]]:
    """Mean over sequences of |dL/dg|, g a factor on everything a unit sends to its reader; unit length per block."""
    totals = {place: torch.zeros(len(its), dtype=torch.float64) for place, its in units.items()}

    def watch(place: Place, its: Units):
        def before_forward(_layer: Any, args: tuple) -> None:
            inputs = args[0] if args[0].requires_grad else args[0].requires_grad_()  # a first leaf for gradients

            def with_gradient(gradient: Tensor) -> None:
                by_input = (inputs.detach().float() * gradient.float()).flatten(0, -2).sum(dim=0).cpu()
                totals[place] += by_input[its.reader.index].sum(dim=1).abs()

            inputs.register_hook(with_gradient)

        return before_forward

    handles = [its.reader.module.register_forward_pre_hook(watch(place, its)) for place, its in units.items()]
    try:
        with torch.enable_grad():
            for one in split(batch, 1):
                loss(model, one).backward()
    finally:
        for handle in handles:
            handle.remove()
    return {place: (total / total.norm().clamp(min=1e-30)).float() for place, total in totals.items()}


def confidences(model: LanguageModel, units: dict[Place, Units], batch: Batch) -> dict[Place, Float[Tensor, " unit"]]:
    """Mean over tokens of the highest weight in each head's attention, meaned over the heads of a unit."""
    totals = {place: torch.zeros(len(its), dtype=torch.float64) for place, its in units.items()}
    shares = dict.fromkeys(units, 0.0)
    configs = {id(part.config): part.config for part in model.module.modules() if hasattr(part, "config")}
    before = {identity: config._attn_implementation for identity, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = "eager"  # the others do not return their weights
        for one in split(batch, 1):
            inputs = inputs_of(to_device(one, model.compute_device))
            attentions = _by_place(model, model.module(**inputs, output_attentions=True))
            for place, its in units.items():
                mask = token_mask(inputs, is_target=place[0] not in model.stack_ranges[0])
                highest = attentions[place].float().amax(dim=-1)  # [sequence head query]
                highest = highest if mask is None else highest[:, :, mask[0]]
                share = highest.shape[2] / attentions[place].shape[2]
                shares[place] += share
                totals[place] += share * highest.mean(dim=(0, 2)).cpu().view(len(its), its.members).mean(dim=1)
    finally:
        for identity, config in configs.items():
            config._attn_implementation = before[identity]
    return {place: (total / shares[place]).float() for place, total in totals.items()}


def _by_place(model: LanguageModel, output: Any) -> dict[Place, Float[Tensor, "sequence head query key"]]:
    """Weights of every attention of a forward."""
    if model.family.encoder is None:
        return {(index, HEADS): weights for index, weights in enumerate(output.attentions)}
    encoder, decoder = model.stack_ranges
    weights = {(index, HEADS): own for index, own in zip(encoder, output.encoder_attentions, strict=True)}
    weights |= {(index, HEADS): own for index, own in zip(decoder, output.decoder_attentions, strict=True)}
    return weights | {(index, CROSS_HEADS): own for index, own in zip(decoder, output.cross_attentions, strict=True)}
