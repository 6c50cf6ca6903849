"""Base of techniques that train: all weights, or adapters that are merged or kept."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from slimsweep.blockwise.layerwise import LayerReport, replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import flag_faults, number_faults, refuse, whole_number_faults
from slimsweep.linear.adapter import AdapterLinear, adapter_settings, drawn_factors
from slimsweep.linear.base import (
    dense_parameters,
    install,
    layer_shape,
    weight_count,
    zero_count,
)
from slimsweep.linear.mask import removed
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layer_names import format_layer_names
from slimsweep.techniques.layerwise import LayerTargets, planned_layers, report_of
from slimsweep.techniques.training.loop import TrainingReport, train
from slimsweep.techniques.training.objective import Objective
from slimsweep.techniques.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Training(Schedule, LayerTargets, Technique):
    """A stage that trains. With a `rank` it trains adapters of the chosen layers, else all parameters.

    Parameters that packed layers store do not change; what is not packed around them does.
    """

    rank: int | None = None
    """Rank of the adapters; null trains all parameters that are not packed."""
    alpha: int | float | None = None
    """The product of an adapter's factors is scaled by alpha / rank; null: 2 x rank."""
    merge: bool = True
    """Whether adapters are added to the weights at the end (packed ones are packed again), else kept beside them."""
    preserve_sparsity: bool = True
    """Whether weights that a pruning stage removed stay zero through the merge."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(self.schedule_faults())

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + flag_faults("merge", self.merge)
        faults += flag_faults("preserve_sparsity", self.preserve_sparsity)
        faults += whole_number_faults("rank", self.rank, is_optional=True)
        if self.alpha is not None:
            faults += number_faults("alpha", self.alpha, "(0, inf)")
        return faults

    @property
    def requirements(self) -> Requirements:
        return Requirements(data=True, gradients=True, seed=True)

    @property
    def scale(self) -> float:
        """Factor of an adapter's product."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    @abstractmethod
    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        """The loss that training lowers; it may load a teacher."""

    def faults(self, skeleton: LanguageModel) -> list[str]:
        if self.rank is None:
            return []
        faults = super().faults(skeleton)
        if faults or self.merge:
            return faults or self._rank_faults(skeleton)
        zeros = getattr(skeleton, "zeros", {})
        masked = {name: layer for name, layer in self.targets(skeleton).items() if zeros.get(name)}
        if self.preserve_sparsity and masked:
            return [
                f"merge=false keeps adapters beside pruned weights, and their product has no zeros, in "
                f"{format_layer_names(masked)}: set merge=true, or preserve_sparsity=false"
            ]
        return self._rank_faults(skeleton)

    def _rank_faults(self, skeleton: LanguageModel) -> list[str]:
        small = {
            name: min(layer_shape(layer))
            for name, layer in self.targets(skeleton).items()
            if self.rank > min(layer_shape(layer))
        }
        if not small:
            return []
        return [
            f"rank={self.rank} is more than the smaller width of {format_layer_names(small)}: give at most "
            f"{min(small.values())}, or exclude these layers"
        ]

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Shapes stay, unless adapters are kept beside the weights."""
        targets = self.targets(skeleton)
        if self.rank is not None and not self.merge:
            for name, layer in targets.items():
                settings = adapter_settings(layer, self.rank, self.scale)
                install(skeleton.module, name, AdapterLinear.empty(layer_shape(layer), settings))
                skeleton.zeros.pop(name, None)
        return StageReport(planned_layers(skeleton, self.targets(skeleton)))

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Train, and report the layers as they are now."""
        if self.rank is None:
            parameters = [one for one in dense_parameters(model.module).values() if one.is_floating_point()]
            training = train(model, parameters, self.objective(model, context), self, context)
            report = report_of([_as_it_is(name, layer) for name, layer in self.targets(model).items()])
        else:
            training, report = self._with_adapters(model, context)
        report.notes["training"] = training.plain()
        return report

    def _with_adapters(self, model: LanguageModel, context: StageContext) -> tuple[TrainingReport, StageReport]:
        objective = self.objective(model, context)
        before = self.targets(model)
        with self._adapted(model, context) as adapters:
            factors = [factor for form in adapters.values() for factor in (form.down, form.up)]
            training = train(model, factors, objective, self, context)
            if not self.merge:
                return training, report_of([_as_it_is(name, layer) for name, layer in adapters.items()])
        return training, report_of([self._merged(model, name, before[name], form) for name, form in adapters.items()])

    @contextmanager
    def _adapted(self, model: LanguageModel, context: StageContext) -> Iterator[dict[str, AdapterLinear]]:
        """Adapters in the places of the targeted layers; the layers come back where adapters are to be merged."""
        layers = self.targets(model)
        adapters = {}
        try:
            for name, layer in layers.items():
                form = AdapterLinear.beside(layer, *self.factors(model, name, layer, context), self.scale)
                if self.preserve_sparsity:
                    form.hold_zeros(layer)
                install(model.module, name, form)
                adapters[name] = form
            yield adapters
        finally:
            if self.merge:
                for name, layer in layers.items():
                    set_layer(model.module, name, layer)

    def factors(self, model: LanguageModel, name: str, layer: nn.Module, context: StageContext):
        """Factors that an adapter begins with."""
        return drawn_factors(layer, self.rank, context.generator(name))

    @torch.no_grad()
    def _merged(self, model: LanguageModel, name: str, layer: nn.Module, form: AdapterLinear) -> LayerReport:
        """Add an adapter's product to its layer; a packed layer is packed again."""
        mask = removed(layer)
        weight = form.base.weight.float() + form.product.float()
        if self.preserve_sparsity and mask is not None:
            weight = weight.masked_fill(mask, 0)
        return replace_weight(model, name, weight)


def set_layer(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of that name."""
    holder, _, last = name.rpartition(".")
    setattr(module.get_submodule(holder), last, layer)


def _as_it_is(name: str, layer: nn.Module) -> LayerReport:
    return LayerReport(name, weight_count(layer), zero_count(layer))
