"""Base of quantizers that scale channels before they round: the walk over blocks, and the reports."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimsweep.blockwise.layerwise import LayerReport, replace_weight, targets_by_block
from slimsweep.blockwise.shared_inputs import refuse_inputs
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.linear.base import PackedLinear, kinds_of, linear_forms, weight_2d
from slimsweep.linear.mask import removed as removed_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.scale_folding import Place, fold, query_key_rows, survey
from slimsweep.numerics.parallel import parallel_map
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layerwise import report_of
from slimsweep.techniques.quantization.base import PackedStorage


@dataclass(frozen=True)
class Scale:
    """Divisors of the channels of a place, and notes for the report."""

    channels: Float[Tensor, " channel"]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Statistics of a layer's inputs at the time it is rounded."""

    seen: Tensor
    """The statistic of the inputs before any scale."""
    divided: Float[Tensor, " in"] | None
    """Divisors of its inputs since; None where they were not divided."""
    protected: Bool[Tensor, " out"] | None = None
    """Mask of its outputs that are queries or keys; None where none is."""


@dataclass(frozen=True, kw_only=True)
class RescalingQuantizer(PackedStorage, Technique):
    """A quantizer that first moves scales between activations and weights, which changes nothing until it rounds.

    Scales are chosen for all places of a block at once, from its unchanged weights, and folded in forward order. An
    excluded layer that reads a scaled activation is scaled too, in its dtype. If it is stored in another form, the
    activation is not scaled.
    """

    merge: ClassVar[Callable[[Tensor, Tensor], Tensor]] = Tensor.add_
    """Function that merges the statistics of two batches."""

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True)

    @property
    def departure(self) -> str | None:
        return "moves scales between layers"

    def rescales(self, place: Place) -> bool:
        """Whether a place is one of those this technique scales."""
        return True

    @abstractmethod
    def statistic(self, inputs: Float[Tensor, "token in"]) -> Tensor:
        """Statistic of a layer's inputs; `merge` makes one of two batches'."""

    @abstractmethod
    def choose(
        self,
        place: Place,
        weight: Float[Tensor, "out in"],
        seen: Tensor,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Scale | None:
        """The scale of a place, from its targeted readers' weights one below the other and their inputs' statistic."""

    @abstractmethod
    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Inputs,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> PackedLinear:
        """The layer that stores a weight whose columns are scaled already."""

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        targets = self.targets(model)
        places, reasons = self.places(model, targets)
        blocks = targets_by_block(model, targets)
        stop = max(index for index, layers in enumerate(blocks) if layers) + 1

        def treat(visit: Visit) -> list[LayerReport]:
            sums = visit.collect(blocks[visit.index], self.statistic, type(self).merge)
            for shared in sums:
                refuse_inputs(shared)
            seen = {name: shared.summed for shared in sums for name in shared.layers}
            own = [place for place in places if place.block == visit.index]
            return self._rescale(model, visit.index, own, seen, reasons)

        title = type(self).__name__
        walk = Walk(title=title, batch=context.batches, propagation=self.inputs, stop=stop)
        return report_of(walk.run(model, treat))

    def places(self, model: LanguageModel, targets: dict[str, nn.Module]) -> tuple[list[Place], dict[str, str]]:
        """Places that this technique scales, and for each targeted layer that no place reaches the reason."""
        surveyed = survey(model)
        reasons, places = dict(surveyed.reasons), []
        forms = linear_forms(model.module)
        for place in surveyed.places:
            touched = set(place.balance_layers) if place.is_norm else {*place.balance_layers, place.smooth_layer}
            if not self.rescales(place):
                reasons.update(dict.fromkeys(place.balance_layers, "not among the activations this technique scales"))
            elif held := sorted(touched & forms.keys() - targets.keys()):
                stored = kinds_of({name: forms[name] for name in held})
                why = f"{', '.join(held)} is stored as {stored} and not a target"
                reasons.update(dict.fromkeys(place.balance_layers, why))
            elif targets.keys() & set(place.balance_layers):
                places.append(place)
        return places, {name: reason for name, reason in reasons.items() if name in targets}

    def _rescale(
        self,
        model: LanguageModel,
        index: int,
        places: list[Place],
        seen: dict[str, Tensor],
        reasons: dict[str, str],
    ) -> list[LayerReport]:
        """Scale and round the layers of one block whose inputs were seen."""
        weights = {name: weight_2d(model.module.get_submodule(name)).to(torch.float32, copy=True) for name in seen}
        removed = {name: removed_of(model.module.get_submodule(name)) for name in seen}
        device = next(iter(weights.values())).device if weights else model.compute_device

        def choose(place: Place) -> Scale | None:
            mine = [name for name in place.balance_layers if name in weights]
            masks = [
                torch.zeros_like(weights[name], dtype=torch.bool) if removed[name] is None else removed[name]
                for name in mine
            ]
            return self.choose(place, torch.cat([weights[name] for name in mine]), seen[mine[0]], torch.cat(masks))

        divided: dict[str, Tensor] = {}
        notes: dict[str, dict[str, Any]] = {name: {"not_scaled": reasons[name]} for name in weights if name in reasons}
        for place, scale in zip(places, parallel_map(choose, places, device), strict=True):
            if scale is None:
                continue
            columns = fold(model, place, scale.channels, weights)
            for name in place.balance_layers:
                divided[name] = columns
                notes[name] = scale.notes
        protected = query_key_rows(model, index)

        def compress(name: str) -> LayerReport:
            inputs = Inputs(seen[name], divided.get(name), protected.get(name))
            packed = self.compress_layer(weights[name], inputs, removed=removed[name])
            return replace_weight(model, name, packed, notes.get(name), wanted=weights[name])

        order = list(model.targets())
        return parallel_map(compress, sorted(weights, key=order.index), device)
