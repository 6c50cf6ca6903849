"""Everything that a stage is given beside the model: data, chance, a teacher, statistics of earlier jobs, a folder."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from slimsweep.blockwise.layer_method import InputStatistic
from slimsweep.blockwise.shared_inputs import Shared
from slimsweep.data.training import TrainingSet
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel


@runtime_checkable
class KeptStatistics(Protocol):
    """Calibration statistics that are kept between jobs, for one stage."""

    def of(self, method: InputStatistic, layers: dict[str, int]) -> AbstractContextManager[Shared]:
        """Open statistics of a method's layers, to read or to write.

        Args:
            layers: their names and input widths.
        """


@dataclass(frozen=True)
class StageContext:
    """Everything a stage is given beside the model. Nothing of a job is stored on the model."""

    batches: Batch | None = None
    """All calibration sequences as one batch, padded to one length; None where no technique of the chain looks at
    text."""
    seed: int = 0
    """Seed of everything that the stage draws."""
    statistics: KeptStatistics | None = None
    """Sums over dense inputs of layers, kept between jobs; None keeps nothing."""
    data: TrainingSet | None = None
    """Examples to train on; None where no technique of the chain trains."""
    teacher: Callable[[], LanguageModel] | None = None
    """Makes the frozen teacher that the technique requires; None where it requires none."""
    predicted_bytes: int | None = None
    """Predicted memory at the fullest moment of training; None where nothing was predicted."""
    work_dir: Path | None = None
    """Folder of an unfinished stage, for checkpoints; None keeps none."""
    teacher_dir: Path | None = None
    """Folder for what this teacher says, which jobs share; None keeps nothing between jobs."""

    def generator(self, name: str) -> torch.Generator:
        """Chance of one layer or part, whichever come before it and wherever it lies."""
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
