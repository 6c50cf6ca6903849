"""Base of techniques that train: all weights, or adapters that are merged or kept."""

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from slimsweep.blockwise.layerwise import LayerReport, replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import flag_faults, number_faults, refuse, whole_number_faults
from slimsweep.linear.adapter import AdapterLinear, adapter_settings, drawn_factors, without_adapter
from slimsweep.linear.base import (
    PackedLinear,
    dense_parameters,
    install,
    layer_shape,
    set_layer,
    weight_count,
    zero_count,
)
from slimsweep.linear.mask import removed, set_removed
from slimsweep.linear.orientation import weight_2d
from slimsweep.models.activation_bytes import activation_bytes
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layer_names import format_layer_names
from slimsweep.techniques.layerwise import LayerTargets, planned_layers, rank_faults, report_of
from slimsweep.techniques.training.loop import TrainingReport, train
from slimsweep.techniques.training.objective import Objective
from slimsweep.techniques.training.schedule import Schedule

log = logging.getLogger(__name__)

FP32 = 4
ADAM_BYTES = 8
"""Bytes of AdamW's averages of a trained number."""
MOMENTARY_LOGITS = 2
"""fp32 copies of the logits that a backward pass holds for a moment beside what it kept: gradients of the loss. A model
in 16 bits has half a copy more of the logits, and half of their gradient. In bf16 on a CPU the loss makes no fp32 copy:
the one that torch's loss would keep is missing, and so is one of a moment, as measured on SmolLM2. See `mean_nll`."""
Pair = tuple[Tensor, Tensor]
"""Factors of an adapter: A [rank in] and B [out rank]."""


@dataclass(frozen=True, kw_only=True)
class TrainedLayers(Schedule, LayerTargets):
    """Mix-in of a stage that lowers an objective by the shared loop. Stands before Technique among the bases."""

    version: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(self.schedule_faults())

    @property
    def requirements(self) -> Requirements:
        return Requirements(data=True, gradients=True, seed=True)

    @property
    def departure(self) -> str | None:
        return "trains"

    @abstractmethod
    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        """The loss that training lowers; it may load a teacher."""


@dataclass(frozen=True, kw_only=True)
class Training(TrainedLayers, Technique):
    """A stage that trains. With a `rank` it trains adapters of the chosen layers, else all parameters.

    Parameters that packed layers store do not change; what is not packed around them does. Where an earlier stage left
    an adapter beside a layer (eora, or lora with merge=false), training goes on with its factors.
    """

    needs_rank: ClassVar[bool] = False
    """Whether the technique is of adapters, so that `rank` cannot be null."""

    rank: int | None = None
    """Rank of the adapters; null trains all parameters that are not packed."""
    alpha: int | float | None = None
    """The product of an adapter's factors is scaled by alpha / rank; null: 2 x rank."""
    merge: bool = True
    """Whether adapters are added to the weights at the end (packed ones are packed again), else kept beside them."""
    preserve_sparsity: bool = True
    """Whether weights that a pruning stage removed stay zero through the merge."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + flag_faults("merge", self.merge)
        faults += flag_faults("preserve_sparsity", self.preserve_sparsity)
        faults += whole_number_faults("rank", self.rank, is_optional=not self.needs_rank)
        if self.alpha is not None:
            faults += number_faults("alpha", self.alpha, "(0, inf)")
        if self.rank is None and (self.alpha is not None or self.merge is False):
            faults.append("alpha and merge are of adapters: give a rank, or leave them out")
        return faults

    @property
    def scale(self) -> float:
        """Factor of an adapter's product."""
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def faults(self, skeleton: LanguageModel) -> list[str]:
        if self.rank is None:
            return self.glob_faults(skeleton)
        faults = super().faults(skeleton)
        if faults or self.merge:
            return faults or rank_faults(self.targets(skeleton), self.rank)
        zeros = getattr(skeleton, "zeros", {})
        masked = {name: "pruned" for name in self.targets(skeleton) if zeros.get(name)}
        if self.preserve_sparsity and masked:
            return [
                "merge=false keeps adapters beside pruned weights, and their product has no zeros, in "
                f"{format_layer_names(masked)}: set merge=true, or preserve_sparsity=false"
            ]
        return rank_faults(self.targets(skeleton), self.rank)

    def _form_faults(self, skeleton: LanguageModel) -> list[str]:
        """Adapters of another rank than is asked for; else layers beside which no adapter can stand."""
        standing = {name: layer for name, layer in self.targets(skeleton).items() if isinstance(layer, AdapterLinear)}
        others = {name: form.settings["rank"] for name, form in standing.items() if form.settings["rank"] != self.rank}
        if others:
            return [
                f"rank={self.rank}, and training goes on with the adapters that an earlier stage left, whose rank is "
                f"{' or '.join(map(str, sorted(set(others.values()))))}: set rank to that, or leave them out with "
                f"exclude=[...]: {format_layer_names(others)}"
            ]
        forms = {name: layer.kind for name, layer in self.targets(skeleton).items() if not self.is_treatable(layer)}
        if not forms:
            return []
        return [
            "adapters stand beside plain or packed layers only, and these layers are stored in another form: "
            f"{format_layer_names(forms)}. Leave them out with exclude=[...]; after svd use finetune or distill, which "
            "train the factors themselves"
        ]

    def is_treatable(self, layer: nn.Module) -> bool:
        return super().is_treatable(without_adapter(layer))

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Shapes stay, unless adapters are kept beside the weights."""
        if self.rank is not None and self.merge:
            for name, layer in self.targets(skeleton).items():
                set_layer(skeleton.module, name, without_adapter(layer))
        elif self.rank is not None:
            self._put_empty_adapters(skeleton)
        return StageReport(planned_layers(skeleton, self.targets(skeleton)))

    def _put_empty_adapters(self, skeleton: Skeleton) -> list[AdapterLinear]:
        """Put empty adapters beside the targeted layers of a skeleton."""
        forms = []
        for name, layer in self.targets(skeleton).items():
            settings = adapter_settings(without_adapter(layer), self.rank, self.scale)
            forms.append(AdapterLinear.empty(layer_shape(layer), settings))
            install(skeleton.module, name, forms[-1])
            skeleton.zeros.pop(name, None)
        return forms

    def training_bytes(self, skeleton: Skeleton, batch: Batch) -> int:
        """Weights, AdamW's two averages, and activations or gradients, with what a backward pass adds for a moment."""
        model = skeleton.copy()
        if self.rank is None:
            return peak_bytes(model, self.trained_parameters(model), batch, self.checkpoint_blocks)
        forms = self._put_empty_adapters(model)
        factors = [factor for form in forms for factor in (form.down, form.up)]
        return peak_bytes(model, factors, batch, self.checkpoint_blocks)

    def trained_parameters(self, model: LanguageModel) -> list[nn.Parameter]:
        """Parameters that are trained without adapters: all, or those of the layers that the globs choose."""
        if self.include == ("*",) and not self.exclude:
            return free_parameters(model)
        return [free for layer in self.targets(model).values() for free in free_parameters_of(layer)]

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Train, and report the layers as they are now."""
        if self.rank is None:
            training = train(model, self.trained_parameters(model), self.objective(model, context), self, context)
            if not self.preserve_sparsity:
                for layer in self.targets(model).values():
                    forget_filled_zeros(layer)
            report = report_of([_as_it_is(name, layer) for name, layer in self.targets(model).items()])
        else:
            training, report = self._with_adapters(model, context)
        report.notes["training"] = training.plain()
        return report

    def _with_adapters(self, model: LanguageModel, context: StageContext) -> tuple[TrainingReport, StageReport]:
        objective = self.objective(model, context)
        before = {name: without_adapter(layer) for name, layer in self.targets(model).items()}
        with self._adapted(model, context) as adapters:
            factors = [factor for form in adapters.values() for factor in (form.down, form.up)]
            training = train(model, factors, objective, self, context)
            if not self.merge:
                return training, report_of([_as_it_is(name, layer) for name, layer in adapters.items()])
        if any(isinstance(layer, PackedLinear) for layer in before.values()):
            log.warning(
                "%s: adapters are merged into packed layers, which round them to the levels they have; changes smaller "
                "than half a level are lost. merge=false keeps them",
                type(self).__name__,
            )
        return training, report_of([self._merged(model, name, before[name], form) for name, form in adapters.items()])

    @contextmanager
    def _adapted(
        self, model: LanguageModel, context: StageContext, pairs: dict[str, Pair] | None = None
    ) -> Iterator[dict[str, AdapterLinear]]:
        """Adapters in the places of the targeted layers; the layers come back where adapters are to be merged.

        Args:
            pairs: factors that they begin with; None: those of `factors`.
        """
        targets = self.targets(model)
        layers = {name: without_adapter(layer) for name, layer in targets.items()}
        adapters = {}
        try:
            for name, layer in layers.items():
                pair = pairs[name] if pairs else self.factors(name, targets[name], context)
                form = AdapterLinear.beside(layer, *pair, self.scale)
                if self.preserve_sparsity:
                    form.hold_zeros(layer)
                install(model.module, name, form)
                adapters[name] = form
            yield adapters
        finally:
            if self.merge:
                for name, layer in layers.items():
                    set_layer(model.module, name, layer)

    def factors(self, name: str, layer: nn.Module, context: StageContext) -> Pair:
        """Factors that an adapter begins with: those of the adapter that stands there, else drawn ones."""
        if isinstance(layer, AdapterLinear):
            return layer.rescaled(self.scale)
        return drawn_factors(layer, self.rank, context.generator(name))

    @torch.no_grad()
    def _merged(self, model: LanguageModel, name: str, layer: nn.Module, form: AdapterLinear) -> LayerReport:
        """Add an adapter's product to its layer; a packed layer is packed again."""
        mask = removed(layer)
        weight = form.base.weight.float() + form.product.float()
        if self.preserve_sparsity and mask is not None:
            weight = weight.masked_fill(mask, 0)
        return replace_weight(model, name, weight)


def peak_bytes(skeleton: Skeleton, trained: list[nn.Parameter], batch: Batch, is_checkpointed: bool) -> int:
    """Predicted bytes at the fullest moment of training some parameters; see `training_bytes`.

    Trained parameters are held in fp32, with AdamW's averages, all the time. Activations are fullest when a backward
    pass begins, and gradients when it ends, so that only the larger of the two counts.
    """
    kept, copies = activation_bytes(skeleton, batch, trained), MOMENTARY_LOGITS + (skeleton.dtype != torch.float32)
    if skeleton.dtype == torch.bfloat16 and skeleton.device_type == "cpu":
        kept, copies = kept - logits_bytes(skeleton, batch), 2
    if is_checkpointed:
        kept //= len(skeleton.blocks)
    moment = kept // len(skeleton.blocks) + copies * logits_bytes(skeleton, batch)
    numbers = sum(parameter.numel() for parameter in trained)
    weights = sum(parameter.nbytes for parameter in skeleton.module.parameters())
    weights -= sum(parameter.nbytes for parameter in trained)
    return weights + (FP32 + ADAM_BYTES) * numbers + max(kept + moment, FP32 * numbers)


def logits_bytes(model: LanguageModel, batch: Batch) -> int:
    """Bytes of the logits of a batch in fp32."""
    config = model.config.get_text_config()
    if not model.task.generates:
        return FP32 * len(batch["input_ids"]) * getattr(config, "num_labels", 2)
    places = batch.get("decoder_input_ids", batch["input_ids"]).numel()
    return FP32 * places * config.vocab_size


def free_parameters(model: LanguageModel) -> list[nn.Parameter]:
    """All parameters of a model that are not packed."""
    return free_parameters_of(model.module)


def free_parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """All parameters of a module that are not packed."""
    return [parameter for parameter in dense_parameters(module).values() if parameter.is_floating_point()]


def forget_filled_zeros(layer: nn.Module) -> None:
    """Take weights that are no zeros any more out of a layer's mask."""
    mask = removed(layer)
    if mask is not None:
        set_removed(layer, mask & (weight_2d(layer) == 0))


def _as_it_is(name: str, layer: nn.Module) -> LayerReport:
    return LayerReport(name, weight_count(layer), zero_count(layer))
