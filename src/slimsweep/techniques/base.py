"""Base classes of techniques: Technique, and LayerwiseTechnique for those that treat linear layers one by one."""

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from slimsweep.blockwise.layer_method import Pruned
from slimsweep.blockwise.layerwise import LayerReport, compress_blocks, install_empty
from slimsweep.checks import choice_faults, refuse
from slimsweep.linear.base import LinearForm, has_single_weights, layer_shape, weight_count
from slimsweep.models.language_model import LanguageModel
from slimsweep.techniques.layer_names import format_layer_names

INPUTS = ("compressed", "dense", "sequential")


@dataclass(frozen=True)
class StageReport:
    """Report of a stage: its layers in forward order, and notes beside the counts."""

    layers: list[LayerReport]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Technique(ABC):
    """One step that changes a model in place. Its knobs are its fields."""

    version: ClassVar[int] = 1
    """Raised by hand when results change; part of an experiment's key."""
    needs_calibration: ClassVar[bool] = False
    """Whether it looks at calibration text."""
    uses_seed: ClassVar[bool] = False
    """Whether it draws anything itself."""
    uses_gradients: ClassVar[bool] = False
    """Whether it runs backward through the model, whose weights must then stay in one place."""

    @property
    def works_by_block(self) -> bool:
        """Whether it needs the weights of one block at a time only, and leaves the others where they rest."""
        return False

    def device_faults(self, device: str) -> list[str]:
        """Reasons why it cannot run on a device such as `cpu` or `cuda:0`."""
        return []

    @abstractmethod
    def faults(self, skeleton: LanguageModel) -> list[str]:
        """Everything that cannot work on a model of this shape; found before weights are read."""

    @abstractmethod
    def apply(self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int) -> StageReport:
        """Change the model in place. On the meta device only counts are planned, in `model.zeros`."""


@dataclass(frozen=True, kw_only=True)
class LayerwiseTechnique(Technique):
    """A technique that treats linear layers one by one: `compress_layer`, and `statistic` if it needs text."""

    statistic_name: ClassVar[str] = ""
    """Name of what `statistic` computes, where techniques may share it: equal names must mean equal values."""

    include: Sequence[str] = ("*",)
    """Globs over full layer names, such as `*.mlp.*`; a layer that matches none is left alone."""
    exclude: Sequence[str] = ()
    """Globs of layers to leave alone all the same."""
    inputs: str = "compressed"
    """Calibration inputs of a block: outputs of the `compressed` blocks before it, or of the `dense` ones; or, layer by
    layer, outputs of all compressed layers before it (`sequential`): one forward a block instead of two."""

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            globs = getattr(self, name)
            object.__setattr__(self, name, (globs,) if isinstance(globs, str) else tuple(globs))
        refuse(self._bad_values())

    def _bad_values(self) -> list[str]:
        """Every field that holds what is not allowed."""
        allowed = INPUTS if type(self).walk is LayerwiseTechnique.walk else INPUTS[:2]  # another walk, other halts
        return choice_faults("inputs", [self.inputs], allowed)

    def targets(self, model: LanguageModel) -> dict[str, nn.Module]:
        """The layers this technique changes, by full name, in forward order."""
        return {
            name: layer
            for name, layer in model.targets().items()
            if _matches(name, self.include) and not _matches(name, self.exclude)
        }

    def faults(self, skeleton: LanguageModel) -> list[str]:
        names = list(skeleton.targets())
        faults = [
            f"{which}={glob!r} matches none of the {len(names)} layers, which are named like {names[0]!r}"
            for which in ("include", "exclude")
            for glob in getattr(self, which)
            if not any(fnmatchcase(name, glob) for name in names)
        ]
        if not faults and not self.targets(skeleton):
            faults = [f"include={list(self.include)} and exclude={list(self.exclude)} leave no layer to change"]
        return faults or self._form_faults(skeleton)

    def _form_faults(self, skeleton: LanguageModel) -> list[str]:
        """Targeted layers in which no single weight can be removed or rounded."""
        forms = {name: layer for name, layer in self.targets(skeleton).items() if not has_single_weights(layer)}
        if not forms:
            return []
        return [
            "no single weights can be removed or rounded in layers that are stored in another form: "
            f"{format_layer_names({name: layer.kind for name, layer in forms.items()})}. Leave them out with "
            "exclude=[...], or put this stage before the one that stores them so"
        ]

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Tensor:
        """Statistic of a layer's inputs; additive, the walk sums it. Only where needs_calibration."""
        raise NotImplementedError

    def prepare(self, summed: Tensor) -> Any:
        """Prepare the summed statistic once for all layers that share an input."""
        return summed

    @property
    def prepared_name(self) -> str:
        """Name of what `prepare` computes, where jobs may share it: equal names mean equal values of equal sums."""
        return ""

    def to_tensors(self, prepared: Any) -> dict[str, Tensor]:
        """Tensors of what `prepare` computed, for a file. Only with a prepared_name."""
        raise NotImplementedError

    def from_tensors(self, tensors: dict[str, Tensor]) -> Any:
        """Read what `prepare` computed from `to_tensors`. Only with a prepared_name."""
        raise NotImplementedError

    def notes(self, prepared: Any) -> dict[str, Any]:
        """Notes on a layer for the report."""
        return {}

    @abstractmethod
    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Pruned | LinearForm:
        """The pruned weight with its mask, or the form that stores it; the fp32 weight is not written to.

        `removed` is True where an earlier stage removed the weight; None where none did.
        """

    def form(self, shape: tuple[int, int]) -> tuple[type[LinearForm], dict[str, Any]] | None:
        """The form and its settings in which a layer of shape (out, in) is stored; None where it stays plain."""
        return None

    def apply(self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int) -> StageReport:
        if model.is_meta:  # what zeros it would leave only a pruner plans
            for name, layer in self.targets(model).items():
                if (stored := self.form(layer_shape(layer))) is not None:
                    install_empty(model, name, *stored)
            layers = {name: weight_count(layer) for name, layer in self.targets(model).items()}
            return StageReport([LayerReport(name, size, model.zeros.get(name, 0)) for name, size in layers.items()])
        return _report(self.walk(model, token_ids, seed))

    @property
    def works_by_block(self) -> bool:
        return type(self).walk is LayerwiseTechnique.walk and not self.uses_gradients

    def working_bytes(self, shape: tuple[int, int]) -> int:
        """About what compressing a layer of shape (out, in) takes beside its weight and statistics, in plans."""
        return 16 * math.prod(shape)  # the weight in fp32, its score, what sorts it, and the result

    def walk(
        self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int
    ) -> list[LayerReport]:
        """Change the targeted layers in place; a technique that looks at several at once has a walk of its own."""
        return compress_blocks(model, self, self.targets(model), token_ids, seed)


def _report(layers: list[LayerReport]) -> StageReport:
    """A report whose notes say which layers have which note, and how far packed layers are from their weights."""
    notes: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for note, value in layer.notes.items():
            notes.setdefault(note, {})[layer.name] = value
    if errors := {layer.name: layer.error for layer in layers if layer.error is not None}:
        worst = max(errors, key=errors.__getitem__)
        mean = statistics.fmean(errors.values())
        notes["packing_error"] = {"mean": mean, "largest": errors[worst], "layer": worst}
    return StageReport(layers, notes)


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
