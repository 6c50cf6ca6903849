"""Calibration examples from the training split of a prepared dataset, as the model's task reads them."""

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.drawn_bytes import DrawnBytes
from slimsweep.data.prepared_training import PreparedTraining
from slimsweep.data.training import length_faults
from slimsweep.models.batches import Batch


@dataclass(frozen=True, kw_only=True)
class PreparedCalibration(DrawnBytes):
    """Examples drawn from a dataset that `slim prepare` wrote: texts, labelled rows, pairs or conversations.

    They are those that `data=prepared` trains on; its validation examples and the dataset's other splits are not drawn.
    """

    unkeyed: ClassVar[tuple[str, ...]] = ("dataset",)  # the digest of the rows stands in keys

    dataset: str | None
    """Name of the dataset, or NAME@KEY for one that was prepared by other settings than those of its file."""
    sequences: int
    """Number of examples drawn, without replacement."""
    tokens: int = 128
    """Tokens of a window of text, or longest example; longer conversations and problems are left out."""
    source_tokens: int = 128
    """Pairs with a longer source are left out."""
    target_tokens: int = 128
    """Pairs with a longer target are left out."""

    def __post_init__(self) -> None:
        names = ("sequences", "tokens", "source_tokens", "target_tokens")
        refuse([fault for name in names for fault in whole_number_faults(f"calibration.{name}", getattr(self, name))])

    @property
    def _training(self) -> PreparedTraining:
        limits = {"source_tokens": self.source_tokens, "target_tokens": self.target_tokens}
        return PreparedTraining(dataset=self.dataset, tokens=self.tokens, validation=1, **limits)

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        """Faults of dataset, model, lengths or number that keep the examples from being drawn. Reads no weights."""
        if not self.dataset:
            return ["calibration=prepared reads a prepared dataset: add calibration.dataset=NAME"]
        if faults := length_faults(source, "calibration.tokens", self.tokens) or self._training.faults(source, corpora):
            return faults
        found = len(self._training.examples(source, corpora).training)
        if found >= self.sequences:
            return []
        return [
            f"dataset {self.dataset} has {found} examples of at most the asked length to calibrate on: set "
            f"calibration.sequences={found} or less, or more calibration.tokens"
        ]

    def digest(self, corpora: Corpora) -> str:
        """SHA-256 of the training split's rows."""
        return self._training.digest(corpora)

    def sample(self, source: Any, corpora: Corpora, seed: int) -> Batch:
        """Draw the examples as one batch, padded to the longest; equal seeds draw equal ones."""
        examples = self._training.examples(source, corpora)
        return examples.collate(random.Random(seed).sample(list(examples.training), self.sequences))

    @property
    def longest_tokens(self) -> int:
        return max(self.tokens, self.source_tokens + self.target_tokens)
