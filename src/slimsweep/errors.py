"""The exceptions this package raises. Messages say what was given, what is allowed and what to change."""

from collections.abc import Sequence
from pathlib import Path


class SlimsweepError(Exception):
    """Base of every error a user can cause; the command line prints its message without a traceback."""


class ConfigError(SlimsweepError):
    """Every fault of an experiment or sweep, found together before any weight is loaded."""

    def __init__(self, faults: list[str]):
        self.faults = list(faults)
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "One fault"
        super().__init__(f"{count}; nothing was started.\n" + "\n".join(f"  - {fault}" for fault in self.faults))


class ModelError(SlimsweepError):
    """Weights, shape or tokenizer of a model are missing, refused or damaged."""


class CorpusError(SlimsweepError):
    """A text is neither on disk nor reachable, or lacks the split that was asked for."""


class TooFewTokensError(SlimsweepError):
    """A text holds less than one whole window of tokens."""


class TaskError(SlimsweepError):
    """An evaluation task is unknown or its data is missing."""


class MetricError(SlimsweepError):
    """A metric measured a field for which it declares no quantity."""


class HessianError(SlimsweepError):
    """A Hessian cannot be factored at any allowed damping."""


class StageError(SlimsweepError):
    """A stage of a chain failed; the message names the stage and, where one is at fault, the layer."""

    @classmethod
    def of(cls, stage: str, error: Exception) -> "StageError":
        """An error of a stage; one that names its stage already is returned as it is."""
        if isinstance(error, cls):
            return error
        kind = "" if isinstance(error, SlimsweepError) else f"{type(error).__name__}: "
        return cls(f"stage {stage}: {kind}{error}")


class LayerError(SlimsweepError):
    """A layer or block could not be treated for a reason that no other error has; the message names it."""


class TrainingError(SlimsweepError):
    """A training stage cannot go on: its data, its work folder, its disk or its loss; the message says what to do."""


class TrainingPaused(SlimsweepError):
    """A training stage reached its limit of minutes; the same command goes on from its last checkpoint."""


class StoreError(SlimsweepError):
    """A record or sweep is unknown, or the output folder cannot be used."""


class TrackerError(SlimsweepError):
    """A tracker's server could not be reached or refused a request, or the package that speaks to it is missing."""


class FigureError(StoreError):
    """A figure of another package cannot be found, imported or drawn."""

    def __init__(self, message: str, drawn: Sequence[Path] = ()):
        super().__init__(message)
        self.drawn = list(drawn)
        """Files of the other figures, which were drawn."""


class ExportError(SlimsweepError):
    """A model cannot be expressed in a format, or the written files do not compute what the model does."""


class DemoError(SlimsweepError):
    """A demo or a chat cannot begin, or a prompt cannot be answered; the message says what to change."""
