"""Training split of a prepared dataset, read by the training data that its kind and the model's task have."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.instructions import Instructions
from slimsweep.data.labelled_rows import LabelledRows, numbering_faults
from slimsweep.data.pairs import Pair
from slimsweep.data.preparation.dataset import TRAIN, Dataset, dataset_named, dataset_names
from slimsweep.data.prepared import PreparedSplit, read_split
from slimsweep.data.problem_file import ProblemFile
from slimsweep.data.training import TrainingData, TrainingSet
from slimsweep.data.training_pairs import TrainingPairs
from slimsweep.data.training_text import TrainingText
from slimsweep.errors import CorpusError
from slimsweep.hints import allowed_names

KINDS_OF_TASK = {
    "causal_lm": ("text", "labelled", "conversations", "problems"),
    "sequence_classification": ("labelled",),
    "seq2seq_lm": ("pairs",),
}
"""Kinds of datasets that each task of a model can be trained on; of labelled rows a language model reads the texts."""
TOKENS = {"sequence_classification": 128}
"""Longest example of a task where none is set, as in conf/data; 512 for the others."""


@dataclass(frozen=True, kw_only=True)
class WholePairs(TrainingPairs):
    """Pairs of a training split: none is kept for measuring, which has splits of its own."""

    def is_used(self, pair: Pair) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class PreparedTraining(TrainingData):
    """Training split of a dataset that `slim prepare` wrote. Its other splits are never trained or validated on."""

    unkeyed: ClassVar[tuple[str, ...]] = ("dataset",)  # the digest of the rows stands in keys

    dataset: str | None
    """Name of the dataset, or NAME@KEY for one that was prepared by other settings than those of its file."""
    tokens: int | None = None
    """Tokens of a window, or longest example; None: 128 for classifiers, else 512. Pairs have limits of their own."""
    source_tokens: int | None = None
    """Pairs with a longer source are left out; None keeps all."""
    target_tokens: int | None = None
    """Pairs with a longer target are left out; None keeps all."""

    def __post_init__(self) -> None:
        names = ("tokens", "source_tokens", "target_tokens")
        limits = (
            fault for name in names for fault in whole_number_faults(f"data.{name}", getattr(self, name), 2, True)
        )
        refuse([*self.bad_values(), *limits])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if not self.dataset:
            return [f"data=prepared reads a prepared dataset: add data.dataset=NAME ({', '.join(dataset_names())})"]
        try:
            split = self._split(corpora)
        except CorpusError as error:
            return [str(error)]
        if split.dataset.kind not in KINDS_OF_TASK.get(source.task, ()):
            return [self._wrong_kind(split.dataset, source)]
        return [*numbering_faults(split.dataset, source), *self._reader(source.task, split).faults(source, corpora)]

    def digest(self, corpora: Corpora) -> str:
        split = self._split(corpora)
        return hashlib.sha256(f"{split.dataset.kind} {split.digest}".encode()).hexdigest()

    def texts(self, corpora: Corpora) -> Iterable[str]:
        for row in self._split(corpora).rows:
            turns = row.get("messages", [])
            yield from (value for name, value in row.items() if name in ("text", "source", "question", "answer"))
            yield from (turn["content"] for turn in turns)

    def examples(self, source: Any, corpora: Corpora) -> TrainingSet:
        return self._reader(source.task, self._split(corpora)).examples(source, corpora)

    def _split(self, corpora: Corpora) -> PreparedSplit:
        return read_split(str(self.dataset), TRAIN, corpora)

    def _reader(self, task: str, split: PreparedSplit) -> TrainingData:
        """The training data that reads the split's file."""
        path, kind = str(split.path), split.dataset.kind
        tokens = self.tokens or TOKENS.get(task, 512)
        if task == "seq2seq_lm":
            limits = {"source_tokens": self.source_tokens, "target_tokens": self.target_tokens}
            return WholePairs(path=path, validation=self.validation, **limits)
        if task == "sequence_classification":
            return LabelledRows(path=path, tokens=tokens, validation=self.validation)
        if kind == "conversations":
            return Instructions(path=path, tokens=tokens, validation=self.validation)
        if kind == "problems":
            return ProblemFile(path=path, tokens=tokens, validation=self.validation)
        name = f"prepared_{split.dataset.name}"
        return TrainingText(corpus=name, path=path, tokens=tokens, validation=self.validation)

    def _wrong_kind(self, dataset: Dataset, source: Any) -> str:
        fitting = [name for name in dataset_names() if dataset_named(name).kind in KINDS_OF_TASK.get(source.task, ())]
        tasks = [task for task, kinds in KINDS_OF_TASK.items() if dataset.kind in kinds]
        return (
            f"dataset {dataset.name} holds {dataset.kind}, for models of model.task={' or '.join(tasks)}, and model "
            f"{source.name} has {source.task}. {allowed_names(dataset.name, fitting, 'For that task')}"
        )
