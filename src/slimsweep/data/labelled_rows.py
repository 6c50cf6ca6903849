"""Rows of a text and its label to train classifiers on."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.pairs import existing_file
from slimsweep.data.preparation.dataset import Dataset
from slimsweep.data.rows import KINDS, kind_of, read_file
from slimsweep.data.training import (
    TrainingData,
    TrainingSet,
    length_faults,
    padded_batch,
    split_by_content,
    task_faults,
)
from slimsweep.data.unknown_tokens import texts_fault
from slimsweep.errors import CorpusError
from slimsweep.models.batches import Batch, padding_id


@dataclass(frozen=True)
class Row:
    """A text and its label as the file spells it."""

    number: int
    text: str
    label: str


@dataclass(frozen=True, kw_only=True)
class LabelledRows(TrainingData):
    """Texts with labels; a longer text than `tokens` is cut. A label is a number or a name of the model's config."""

    path: str | None
    """File with a column of texts and one of labels."""
    tokens: int
    """Longest text in tokens."""
    text_column: str = "text"
    label_column: str = "label"

    def __post_init__(self) -> None:
        refuse([*self.bad_values(), *whole_number_faults("data.tokens", self.tokens)])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if faults := task_faults(source, "sequence_classification", "rows", "set data=text or data=pairs"):
            return faults
        if not self.path:
            return [f"data=rows reads a file of yours: add data.path=FILE (.{', .'.join(KINDS[1:])})"]
        if faults := length_faults(source, "data.tokens", self.tokens):
            return faults
        try:
            rows = self._rows()
            label_ids(rows, source.config(), self.path)
        except CorpusError as error:
            return [str(error)]
        if len(rows) < 2:
            return [f"{self.path} has one row, and two are needed, one to validate on"]
        texts = [row.text for row in rows]
        fault = texts_fault(f"training data {self.path}", texts, source.tokenizer(), source.config().vocab_size)
        return [fault] if fault else []

    def digest(self, corpora: Corpora) -> str:
        content = json.dumps([(row.text, row.label) for row in self._rows()])
        return hashlib.sha256(content.encode()).hexdigest()

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (row.text for row in self._rows())

    def examples(self, source: Any, corpora: Corpora) -> TrainingSet:
        tokenizer, config, rows = source.tokenizer(), source.config(), self._rows()
        ids = tokenizer([row.text for row in rows], truncation=True, max_length=self.tokens, verbose=False)["input_ids"]
        labelled = list(zip(rows, ids, label_ids(rows, config, self.path), strict=True))
        training, validation = split_by_content(labelled, lambda one: one[0].text.encode(), self.validation)
        collate = functools.partial(_batch, padding=padding_id(tokenizer))
        return TrainingSet(training, validation, collate, str(self.path))

    def _rows(self) -> tuple[Row, ...]:
        return read_rows(self.path, self.text_column, self.label_column, "data.")


def read_rows(path: str, text_column: str, label_column: str, where: str) -> tuple[Row, ...]:
    """Labelled rows of a file in order, read once per process.

    Args:
        where: beginning of the settings that messages name, such as `data.`.

    Raises:
        CorpusError: no such file, columns that it does not have, or no row.
    """
    stat = existing_file(path).stat()
    return _read(path, text_column, label_column, where, (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _read(path: str, text_column: str, label_column: str, where: str, stamp: tuple[int, int]) -> tuple[Row, ...]:
    file = existing_file(path)
    if kind_of(file) not in KINDS[1:]:
        raise CorpusError(f"{path} ends in none of .{', .'.join(KINDS[1:])}, so it has no column of labels")
    rows = []
    for number, row in enumerate(read_file(file), 1):
        if not isinstance(row.get(text_column), str) or row.get(label_column) is None:
            raise CorpusError(
                f"{path}: row {number} has no text in {text_column!r} or no label in {label_column!r}; columns there: "
                f"{', '.join(map(str, row))}. Name them: {where}text_column=NAME {where}label_column=NAME"
            )
        rows.append(Row(number, row[text_column], str(row[label_column])))
    if not rows:
        raise CorpusError(f"{path} holds no row")
    return tuple(rows)


def label_ids(rows: Sequence[Row], config: Any, path: str | None) -> list[int]:
    """Number of each row's label.

    Raises:
        CorpusError: a label that the model's config does not have.
    """
    count, named = config.num_labels, {str(name): int(number) for name, number in (config.label2id or {}).items()}
    known = {str(number): number for number in range(count)} | named
    for row in rows:
        if row.label not in known:
            raise CorpusError(
                f"{path}: row {row.number} has the label {row.label!r}; this model has {count} labels: 0 to "
                f"{count - 1}, or {', '.join(named)}"
            )
    return [known[row.label] for row in rows]


def numbering_faults(dataset: Dataset, source: Any) -> list[str]:
    """Fault of a classifier whose config gives the classes other numbers than the dataset."""
    if source.task != "sequence_classification":
        return []
    config = {str(name).lower(): int(number) for name, number in (source.config().label2id or {}).items()}
    ours = {name.lower(): number for number, name in enumerate(dataset.labels)}
    if config.keys() != ours.keys() or config == ours:
        return []
    return [
        f"model {source.name} numbers its labels {config}, and dataset {dataset.name} {ours}: change label2id and "
        "id2label in the model's config.json, if it is not trained yet; else read a file whose labels are names"
    ]


def _batch(examples: Sequence[tuple[Row, list[int], int]], padding: int) -> Batch:
    batch = padded_batch([{"input_ids": tokens, "labels": tokens} for _, tokens, _ in examples], padding)
    return batch | {"labels": torch.tensor([label for _, _, label in examples])}
