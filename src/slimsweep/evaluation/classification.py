"""Accuracy and F1 of a sequence classifier on labelled rows."""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from slimsweep.checks import choice_faults, refuse, whole_number_faults
from slimsweep.data.corpora import SHORT_DIGEST, Corpora
from slimsweep.data.labelled_rows import Row, label_ids, numbering_faults, read_rows
from slimsweep.data.prepared import dataset_label, read_split
from slimsweep.data.rows import KINDS
from slimsweep.data.training import length_faults, padded_batch
from slimsweep.data.unknown_tokens import texts_fault
from slimsweep.errors import CorpusError
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.outcomes import Outcomes, items_digest
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.batch_sizes import BATCH_TOKENS, batch_tokens
from slimsweep.models.batches import padding_id, to_device
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.progress import tracked

AVERAGES = ("auto", "binary", "macro")
TASK = "sequence_classification"
NOT_FINITE = "logits are not finite"


@dataclass(frozen=True, kw_only=True)
class Classification(Metric):
    """Share of texts whose likeliest label is the right one, and F1.

    Binary F1 is that of label 1: 2 tp / (2 tp + fp + fn). Macro F1 is the mean over all labels of the model; a label
    that neither occurs nor is predicted has F1 0.
    """

    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="classification_accuracy",
            kind="accuracy",
            label="classification accuracy",
            unit="fraction",
            higher_is_better=True,
            group="quality",
            heading="accuracy",
            format=".4f",
            place=1,
            error="classification_accuracy_stderr",
            seconds="classification_seconds",
        ),
        Quantity(
            field="classification_accuracy_stderr", label="standard error of accuracy", unit="fraction", format=".4f"
        ),
        Quantity(
            field="classification_f1",
            label="F1",
            unit="fraction",
            higher_is_better=True,
            group="quality",
            heading="F1",
            format=".4f",
            place=2,
        ),
        Quantity(
            field="classification_truncated_texts", label="texts cut at their longest", unit="texts", format=".0f"
        ),
        Quantity(
            field="classification_seconds",
            label="time of the classification",
            unit="s",
            higher_is_better=False,
            varies=True,
        ),
    )
    where: ClassVar[str] = "evaluation.metrics.classification"

    path: str | None = None
    """File with a column of texts and one of labels."""
    text_column: str = "text"
    label_column: str = "label"
    """Column of the labels: numbers, or names of the model's config."""
    dataset: str | None = None
    """Prepared dataset of labelled rows, instead of a file."""
    split: str = "validation"
    """Split of the dataset."""
    max_rows: int | None = None
    """Rows that count, in the order of the hash of their texts; None: all, in the order of the file."""
    tokens: int = 128
    """Longest text in tokens; longer ones are cut at their end and counted."""
    average: str = "auto"
    """F1: `binary` (of label 1), `macro` (mean over labels), or `auto`: binary for two labels, else macro."""
    batch_tokens: int | None = None
    """Tokens of one forward, padding included, which decide speed and memory; None: 2048 on a CPU, up to 16384 on a
    GPU as memory allows."""

    def __post_init__(self) -> None:
        faults = [
            *whole_number_faults(f"{self.where}.max_rows", self.max_rows, is_optional=True),
            *whole_number_faults(f"{self.where}.tokens", self.tokens, least=2),
            *whole_number_faults(f"{self.where}.batch_tokens", self.batch_tokens, is_optional=True),
            *choice_faults(f"{self.where}.average", [self.average], AVERAGES),
        ]
        if self.path and self.dataset:
            faults.append(f"{self.where}.path={self.path} and {self.where}.dataset={self.dataset}: give one of them")
        refuse(faults)

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def digests(self, corpora: Corpora) -> dict[str, str]:
        return {"rows": _digest(self.rows(corpora))}

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (row.text for row in self.rows(corpora))

    def rows(self, corpora: Corpora) -> tuple[Row, ...]:
        """Labelled rows that count.

        Raises:
            CorpusError: none are named, they cannot be read, or there is none.
        """
        if self.dataset:
            prepared = read_split(self.dataset, self.split, corpora)
            if prepared.dataset.standard_columns != ("text", "label"):
                raise CorpusError(f"dataset {self.dataset} has no labels: {self.where}.dataset needs labelled rows")
            rows = tuple(Row(number, row["text"], str(row["label"])) for number, row in enumerate(prepared.rows, 1))
            if not rows:
                raise CorpusError(f"dataset {self.dataset} has no row in its split {self.split}")
        elif self.path:
            rows = read_rows(self.path, self.text_column, self.label_column, f"{self.where}.")
        else:
            raise CorpusError(
                f"no labelled rows are given: add {self.where}.path=FILE (.{', .'.join(KINDS[1:])}, also .gz), or "
                f"{self.where}.dataset=NAME of a prepared dataset"
            )
        if self.max_rows is None or len(rows) <= self.max_rows:
            return rows
        by_hash = sorted(rows, key=lambda row: (hashlib.sha256(row.text.encode()).digest(), row.number))
        return tuple(by_hash[: self.max_rows])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if source.task != TASK:
            return [
                f"classification needs a classifier (model.task={TASK}), and model {source.name} has model.task="
                f"{source.task}: choose another metric"
            ]
        if source.tokenizer() is None:
            return [f"model {source.name} has no tokenizer, which classification needs"]
        config, place = source.config(), self.dataset or self.path
        faults = length_faults(source, f"{self.where}.tokens", self.tokens)
        try:
            rows = self.rows(corpora)
            label_ids(rows, config, place)
            if self.dataset:
                faults += numbering_faults(read_split(self.dataset, self.split, corpora).dataset, source)
        except CorpusError as error:
            return [*faults, str(error)]
        if self.average == "binary" and config.num_labels != 2:
            faults.append(f"{self.where}.average=binary, but this model has {config.num_labels} labels: give macro")
        fault = texts_fault(f"labelled rows {place}", (row.text for row in rows), source.tokenizer(), config.vocab_size)
        return [*faults, *([fault] if fault else [])]

    def measure(self, model: LanguageModel, corpora: Corpora) -> Measurement:
        """`classification_accuracy` with its standard error, `classification_f1`, and the number of texts cut."""
        rows, config = self.rows(corpora), model.config
        labels = np.array(label_ids(rows, config, self.dataset or self.path))
        started = time.perf_counter()
        predictions, truncated = self._predictions(model, [row.text for row in rows])
        counts = {
            "classification_seconds": time.perf_counter() - started,
            "classification_truncated_texts": truncated,
        }
        fields = ("classification_accuracy", "classification_accuracy_stderr", "classification_f1")
        if predictions is None:  # the likeliest of such logits would be label 0, right for some of the texts
            return Measurement(dict.fromkeys(fields) | counts, dict.fromkeys(fields, NOT_FINITE))
        average = self.average if self.average != "auto" else "binary" if config.num_labels == 2 else "macro"
        right = (predictions == labels).astype(np.uint8)
        statistics = f1_statistics(labels, predictions, [1] if average == "binary" else range(config.num_labels))
        values = dict(zip(fields, (*_mean_and_error(right), f1(statistics)), strict=True))
        protocol, items = (
            self._protocol(model, rows),
            items_digest(text for row in rows for text in (row.text, row.label)),
        )
        return Measurement(
            values | counts,
            {} if len(rows) > 1 else {fields[1]: "one text has no standard error"},
            {fields[0]: f"accuracy:{protocol}", fields[2]: f"F1 {average}:{protocol}"},
            {fields[0]: Outcomes(right, "mean", items), fields[2]: Outcomes(statistics, "f1", items)},
        )

    @torch.no_grad()
    def _predictions(self, model: LanguageModel, texts: Sequence[str]) -> tuple[np.ndarray | None, int]:
        """Likeliest label of each text, and the number of texts that were cut; None where logits are not finite."""
        tokenizer = model.tokenizer
        whole = [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
        ids = tokenizer(list(texts), truncation=True, max_length=self.tokens, verbose=False)["input_ids"]
        predictions = np.zeros(len(texts), dtype=np.int64)
        truncated = sum(length > self.tokens for length in whole)
        batches = _batches([len(one) for one in ids], self.batch_tokens or batch_tokens(model))
        for _, places in tracked(batches, "classification: batch"):
            examples = [{"input_ids": ids[place], "labels": ids[place]} for place in places]
            batch = padded_batch(examples, padding_id(tokenizer))
            del batch["labels"]
            logits = model.task.forward(model.module, to_device(batch, model.compute_device)).logits
            if not bool(logits.isfinite().all()):
                return None, truncated
            predictions[places] = logits.argmax(dim=-1).cpu().numpy()
        return predictions, truncated

    def _protocol(self, model: LanguageModel, rows: Sequence[Row]) -> str:
        return ":".join(
            (
                f"{dataset_label(self.dataset)}:split={self.split}" if self.dataset else "file",
                f"rows={len(rows)}",
                f"tokens<={self.tokens}",
                f"tok={tokenizer_digest(model.tokenizer)[:SHORT_DIGEST]}",
                f"sha={_digest(rows)[:SHORT_DIGEST]}",
            )
        )

    def working_bytes(self, token_bytes: int) -> int:
        return max(self.batch_tokens or BATCH_TOKENS, self.tokens) * token_bytes


def f1_statistics(labels: np.ndarray, predictions: np.ndarray, counted: Iterable[int]) -> np.ndarray:
    """Columns tp, fp, fn of each counted label, one row an item: rows add up to the counts of a confusion matrix."""
    columns = []
    for label in counted:
        is_label, is_predicted = labels == label, predictions == label
        columns += [is_label & is_predicted, ~is_label & is_predicted, is_label & ~is_predicted]
    return np.stack(columns, axis=1).astype(np.uint8)


def f1(statistics: np.ndarray) -> float:
    """Mean F1 of the labels in `f1_statistics`."""
    return Outcomes(statistics, "f1", "").score()


def _mean_and_error(right: np.ndarray) -> tuple[float, float | None]:
    """Mean and standard error, as lm-evaluation-harness has it: the sample's deviation over the root of its size."""
    error = float(right.std(ddof=1)) / math.sqrt(len(right)) if len(right) > 1 else None
    return float(right.mean()), error


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps([(row.text, row.label) for row in rows]).encode()).hexdigest()


def _batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places of descending length in groups whose padded size is at most `tokens`."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens:
            batches.append([])
        batches[-1].append(place)
    return batches
