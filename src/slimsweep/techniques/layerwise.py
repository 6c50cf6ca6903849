"""Mix-ins of techniques that treat linear layers: the choice of layers, and the walk that treats each by itself."""

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimsweep.blockwise.layer_method import Pruned, looks_at_inputs
from slimsweep.blockwise.layerwise import LayerReport, compress_blocks, install_empty
from slimsweep.blockwise.shared_inputs import statistic_bytes
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.blockwise.walk import PROPAGATIONS
from slimsweep.checks import choice_faults, refuse
from slimsweep.linear.base import LinearForm, has_single_weights, layer_shape, weight_count
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.base import Requirements, StageReport
from slimsweep.techniques.layer_names import format_layer_names

Form = tuple[type[LinearForm], dict[str, Any]]
"""Kind and settings in which a layer is stored."""


@dataclass(frozen=True, kw_only=True)
class LayerTargets(ABC):
    """Mix-in of a technique that changes linear layers chosen by name. Stands before Technique among the bases.

    `walk` changes the layers. A family of techniques that shares a plan and a report has them in `plan` and `apply`.
    """

    known_inputs: ClassVar[tuple[str, ...]] = PROPAGATIONS[:2]
    """Values that the knob `inputs` may have; `sequential` only where the walk halts at each layer."""

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
        return choice_faults("inputs", [self.inputs], self.known_inputs)

    def targets(self, model: LanguageModel) -> dict[str, nn.Module]:
        """The layers this technique changes, by full name, in forward order."""
        return {
            name: layer
            for name, layer in model.targets().items()
            if _matches(name, self.include) and not _matches(name, self.exclude)
        }

    def faults(self, skeleton: LanguageModel) -> list[str]:
        """Globs that match nothing, a choice of no layer, or layers without single weights."""
        return self.glob_faults(skeleton) or self._form_faults(skeleton)

    def glob_faults(self, skeleton: LanguageModel) -> list[str]:
        """Globs that match nothing, or a choice of no layer."""
        names = list(skeleton.targets())
        faults = [
            f"{which}={glob!r} matches none of the {len(names)} layers, which are named like {names[0]!r}"
            for which in ("include", "exclude")
            for glob in getattr(self, which)
            if not any(fnmatchcase(name, glob) for name in names)
        ]
        if not faults and not self.targets(skeleton):
            faults = [f"include={list(self.include)} and exclude={list(self.exclude)} leave no layer to change"]
        return faults

    def is_treatable(self, layer: nn.Module) -> bool:
        """Whether the technique can change a layer that is stored like this one."""
        return has_single_weights(layer)

    def _form_faults(self, skeleton: LanguageModel) -> list[str]:
        """Targeted layers in which no single weight can be removed or rounded."""
        forms = {name: layer for name, layer in self.targets(skeleton).items() if not self.is_treatable(layer)}
        if not forms:
            return []
        return [
            "no single weights can be removed or rounded in layers that are stored in another form: "
            f"{format_layer_names({name: layer.kind for name, layer in forms.items()})}. Leave them out with "
            "exclude=[...], or put this stage before the one that stores them so"
        ]

    @abstractmethod
    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Change the targeted layers in place."""

    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Change the targeted layers in place."""
        return self.walk(model, context)

    def form(self, shape: tuple[int, int]) -> Form | None:
        """The form in which a layer of shape (out, in) is stored; None where it stays as it is."""
        return None

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Put empty layers of the new form in place, and report the zeros planned before, which stay."""
        for name, layer in self.targets(skeleton).items():
            if (stored := self.form(layer_shape(layer))) is not None:
                install_empty(skeleton, name, *stored)
        return StageReport(planned_layers(skeleton, self.targets(skeleton)))


@dataclass(frozen=True, kw_only=True)
class LayerWalk(LayerTargets):
    """Mix-in of a technique that treats each layer by itself: it writes `compress_layer`, the walk is here.

    One that looks at inputs has the mix-in InputStatistic beside it.
    """

    known_inputs: ClassVar[tuple[str, ...]] = PROPAGATIONS

    @property
    def requirements(self) -> Requirements:
        """Calibration text for one that looks at inputs; the weights of one block at a time."""
        is_looking = looks_at_inputs(self)
        # Halted forwards are alive all at once.
        return Requirements(
            calibration=is_looking, whole_model=False, whole_text=is_looking and self.inputs == "sequential"
        )

    @abstractmethod
    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Pruned | LinearForm | Float[Tensor, "out in"]:
        """The pruned weight with its mask, or the form that stores it; the fp32 weight is not written to.

        A layer that is to stay as it is gets its weight back.

        `removed` is True where an earlier stage removed the weight; None where none did.
        """

    def notes(self, prepared: Any) -> dict[str, Any]:
        """Notes on a layer for the report."""
        return {}

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        return report_of(compress_blocks(model, self, self.targets(model), context))

    def layer_bytes(self, shape: tuple[int, int]) -> int:
        """About what compressing a layer of shape (out, in) takes beside its weight and statistics."""
        return 16 * math.prod(shape)  # the weight in fp32, its score, what sorts it, and the result

    def working_bytes(self, shapes: list[tuple[int, int]]) -> int:
        """Statistics of a block's inputs, plus the memory of the largest layers that are compressed in parallel."""
        is_looking = looks_at_inputs(self)
        sums = statistic_bytes(self.statistic, (inputs for _, inputs in shapes)) if is_looking else 0
        at_once = min(torch.get_num_threads(), len(shapes))
        return sums + sum(sorted(self.layer_bytes(shape) for shape in shapes)[-at_once:])


def rank_faults(layers: dict[str, nn.Module], rank: int) -> list[str]:
    """One line where factors of some layers would be wider than the layers."""
    small = {name: min(layer_shape(layer)) for name, layer in layers.items() if rank > min(layer_shape(layer))}
    if not small:
        return []
    return [
        f"rank={rank} is more than the smaller width of {format_layer_names(small)}: give at most "
        f"{min(small.values())}, or exclude these layers"
    ]


def planned_layers(skeleton: Skeleton, targets: dict[str, nn.Module]) -> list[LayerReport]:
    """Layers of a skeleton with their planned zeros."""
    return [LayerReport(name, weight_count(layer), skeleton.zeros.get(name, 0)) for name, layer in targets.items()]


def report_of(layers: list[LayerReport]) -> StageReport:
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
