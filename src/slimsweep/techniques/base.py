"""Base of techniques: requirements, faults, the plan on shapes alone, and the change of a model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from slimsweep.blockwise.layerwise import LayerReport
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton


@dataclass(frozen=True)
class StageReport:
    """Report of a stage: its layers in forward order, and notes beside the counts."""

    layers: list[LayerReport]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Demands of a technique on the job that it is part of."""

    calibration: bool = False
    """Whether it looks at calibration text."""
    seed: bool = False
    """Whether it draws anything itself."""
    data: bool = False
    """Whether it trains on the examples of the group `data`."""
    teacher: str | None = None
    """Model that it learns from: `base`, `chain` (the model before this stage) or another's folder."""
    gradients: bool = False
    """Whether it runs backward through the model, whose weights must then stay in one place."""
    whole_model: bool = True
    """Whether it needs the weights of several blocks at once; else the others stay where they rest."""
    whole_text: bool = False
    """Whether forwards of all calibration sequences are alive at once; else of one batch."""


@dataclass(frozen=True, kw_only=True)
class Technique(ABC):
    """One step that changes a model in place. Its knobs are its fields."""

    version: ClassVar[int] = 1
    """Raised by hand when results change; part of an experiment's key."""
    unkeyed: ClassVar[frozenset[str]] = frozenset()
    """Knobs that decide no result, such as a limit of minutes; left out of keys."""
    makes_base: ClassVar[bool] = False
    """Whether stages of this kind at the beginning of a chain make the model that later stages are compared with."""

    @property
    def requirements(self) -> Requirements:
        """Demands on the job; they may depend on the knobs."""
        return Requirements()

    @property
    def departure(self) -> str | None:
        """Reason why weights then differ from the base's beside what was lost, such as `trains`; else None."""
        return None

    def device_faults(self, device: str) -> list[str]:
        """Reasons why it cannot run on a device such as `cpu` or `cuda:0`."""
        return []

    @abstractmethod
    def faults(self, skeleton: LanguageModel) -> list[str]:
        """Everything that cannot work on a model of this shape; found before weights are read."""

    def data_faults(self, data: Any, source: Any, teacher: Any = None) -> list[str]:
        """Faults of the training data and of a teacher for this stage; found before weights are read.

        Args:
            data: the group `data` of the job.
            source: source of the model.
            teacher: source of a teacher that is another model; None where it is `base` or `chain`.
        """
        return []

    @abstractmethod
    def plan(self, skeleton: Skeleton) -> StageReport:
        """Give a skeleton the shapes, zeros and packed layers that `apply` would leave; runs without weights."""

    @abstractmethod
    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Change the model in place."""

    def training_bytes(self, skeleton: Skeleton, batch: Batch) -> int:
        """Predicted bytes at the fullest moment of training on such batches, weights included; 0 where none is.

        Args:
            skeleton: the model before this stage, on shapes alone.
            batch: a batch of the shape of one forward.
        """
        return 0

    def working_bytes(self, shapes: list[tuple[int, int]]) -> int:
        """Approximate bytes that compressing a block takes beside its weights, in plans of memory.

        Asked only where no whole model is required.

        Args:
            shapes: of the block's layers, (out, in).
        """
        return 0
