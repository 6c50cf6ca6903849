"""Remove neurons of gated MLPs: gate and up rows in pairs, and the down column with them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.removal_walk import Choice, lowest_units
from slimsweep.checks import choice_faults, number_faults
from slimsweep.linear.base import layer_shape, weight_2d
from slimsweep.models import anatomy
from slimsweep.models.anatomy import NEURONS, Units
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics import counts
from slimsweep.techniques.structured.base import BlockwiseTechnique

IMPORTANCES = ("peak_to_peak", "l2", "activation")


@dataclass(frozen=True, kw_only=True)
class Glu(BlockwiseTechnique):
    """Shrink the inner width of gated MLPs.

    Importance of a neuron, which has a row in gate and one in up: `peak_to_peak` is the range (highest less lowest
    weight) of each row, summed over both. `l2` is the norm of both rows together. `activation` is the mean square of
    the neuron's part of the output on calibration text.

    Source: GLU-aware structured pruning: Martra, 2024, "Rearchitecting LLMs".
    """

    ratio: float | int | None
    """Fraction of the neurons to remove, [0, 1); null where `expansion_ratio` is given."""
    expansion_ratio: float | int | None = None
    """Inner width over residual width to end with, instead of a ratio; Llama-2-7B has 2.69, Llama-3.2-1B 4."""
    importance: str = "peak_to_peak"
    """`peak_to_peak`, `l2`, or `activation`, which alone looks at calibration text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expansion_ratio is not None:
            object.__setattr__(self, "ratio", None)

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + choice_faults("importance", [self.importance], IMPORTANCES)
        if self.expansion_ratio is not None:
            meaning = "inner width over residual width"
            faults += number_faults("expansion_ratio", self.expansion_ratio, "(0, inf)", meaning)
        return faults

    def _ratio_faults(self) -> list[str]:
        return [] if self.expansion_ratio is not None else super()._ratio_faults()

    @property
    def kinds(self) -> tuple[str, ...]:
        return (NEURONS,)

    @property
    def looks(self) -> bool:
        return self.importance == "activation"

    def removed_count(self, units: Units) -> int:
        if self.expansion_ratio is None:
            return super().removed_count(units)
        residual = layer_shape(units.reader.module)[0]
        return max(len(units) - counts.expansion_width(self.expansion_ratio, residual), 0)

    def _count_faults(self, skeleton: LanguageModel) -> list[str]:
        if not anatomy.is_gated(skeleton):
            return ["this model's MLP has no gate; use llm_pruner or qap, which need none"]
        if self.expansion_ratio is None:
            return super()._count_faults(skeleton)
        residual, inner = anatomy.channel_count(skeleton), len(anatomy.neurons(skeleton, 0))
        kept = counts.expansion_width(self.expansion_ratio, residual)
        if 1 <= kept <= math.ceil(inner / residual * 100) / 100 * residual:  # the bound as the message rounds it
            return []
        return [
            f"expansion_ratio={self.expansion_ratio:g}: give at most the {inner / residual:.2f} this model has, above 0"
        ]

    def choose(self, index: int, units: Units, second_moment: Float[Tensor, "in in"] | None) -> Choice:
        gate, up, down = units.slots
        rows = [weight_2d(slot.module)[slot.index.flatten()].float() for slot in (gate, up)]
        if self.importance == "peak_to_peak":
            scores = sum(row.amax(dim=1) - row.amin(dim=1) for row in rows)
        elif self.importance == "l2":
            scores = torch.cat(rows, dim=1).square().sum(dim=1)
        else:
            scores = weight_2d(down.module).float().square().sum(dim=0) * second_moment.diagonal()
        return Choice(lowest_units(scores.cpu(), self.removed_count(units)))
