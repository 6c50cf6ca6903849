"""Sources with the texts that a model should write for them: from a file of pairs or a prepared dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import choice_faults, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.instructions import Turns
from slimsweep.data.pairs import TABLES, Pair, read_pairs
from slimsweep.data.prepared import read_split
from slimsweep.errors import CorpusError

FILE_SPLITS: dict[str, Callable[[Pair], bool]] = {"all": lambda pair: True, "held_out": lambda pair: pair.is_held_out}
DATASET_SPLIT = "test"


@dataclass(frozen=True)
class Reference:
    """A source and the text that should be written for it."""

    row: int
    """Number of its row in the file or dataset, from 1."""
    source: str | Turns
    """A text, or the turns of a conversation before its last answer."""
    target: str

    @property
    def text(self) -> str:
        """Source as one text."""
        return self.source if isinstance(self.source, str) else "\n\n".join(text for _, text in self.source)


@dataclass(frozen=True)
class References:
    """References as read, in the order of their file or dataset."""

    rows: tuple[Reference, ...]
    digest: str
    origin: str
    """Path of the file, or name and split of the dataset."""


@dataclass(frozen=True, kw_only=True)
class ReferenceFile:
    """Mix-in of metrics that compare what a model writes with references: where these are, and how many count."""

    path: str | None = None
    """File with a column of sources and one of targets; with `target_path`, text with one source a line."""
    target_path: str | None = None
    """Text file with the target of each line of `path`."""
    source_column: str = "source"
    """Column of the sources."""
    target_column: str = "target"
    """Column of the targets."""
    dataset: str | None = None
    """Prepared dataset of pairs, problems or conversations, instead of a file."""
    split: str | None = None
    """Split of a dataset by its name, by default `test`. A file has the splits `all`, the default, and `held_out`: the
    pairs that no calibration draws, one in five by the hash of the source."""
    max_pairs: int | None = None
    """References that count, in the order of the hash of their sources; None: all, in the order of the file."""

    where: ClassVar[str]
    """Place of these settings in a composed config, for messages."""

    def reference_faults(self) -> list[str]:
        """Faults of the values themselves."""
        faults = whole_number_faults(f"{self.where}.max_pairs", self.max_pairs, is_optional=True)
        if self.path and self.dataset:
            faults.append(f"{self.where}.path={self.path} and {self.where}.dataset={self.dataset}: give one of them")
        if self.target_path and not self.path:
            faults.append(f"{self.where}.target_path has no sources beside it: add {self.where}.path=FILE")
        if self.split is not None and not self.dataset:
            faults += choice_faults(f"{self.where}.split", [self.split], tuple(FILE_SPLITS))
        return faults

    def references(self, corpora: Corpora) -> References:
        """The references that count.

        Raises:
            CorpusError: none are named, they cannot be read, a source or target is empty, or none is left.
        """
        if not self.path and not self.dataset:
            raise CorpusError(
                f"no references are given: add {self.where}.path=FILE (.{', .'.join(TABLES)}, also .gz, or two text "
                f"files with {self.where}.target_path=FILE), or {self.where}.dataset=NAME of a prepared dataset"
            )
        whole = self._of_dataset(corpora) if self.dataset else self._of_file()
        rows = whole.rows
        if self.max_pairs is not None and len(rows) > self.max_pairs:
            rows = tuple(sorted(rows, key=lambda one: (_digest(one), one.row))[: self.max_pairs])
        return References(rows, whole.digest, whole.origin)

    @property
    def split_name(self) -> str:
        """The split that is read."""
        return self.split or (DATASET_SPLIT if self.dataset else "all")

    def _of_file(self) -> References:
        columns = (self.source_column, self.target_column)
        pairs = read_pairs(self.path, columns, self.target_path, f"{self.where}.")
        kept = [pair for pair in pairs.pairs if FILE_SPLITS[self.split_name](pair)]
        if not kept:
            raise CorpusError(f"{pairs.origin} has no pair in the split {self.split_name}: set {self.where}.split=all")
        rows = tuple(Reference(pair.row, pair.source, pair.target) for pair in kept)
        return References(rows, pairs.digest, pairs.origin)

    def _of_dataset(self, corpora: Corpora) -> References:
        prepared = read_split(self.dataset, self.split_name, corpora)
        origin = f"dataset {self.dataset}, split {self.split_name}"
        rows = tuple(_reference(row, number, origin) for number, row in enumerate(prepared.rows, 1))
        if not rows:
            raise CorpusError(f"{origin} holds no row")
        return References(rows, prepared.digest, origin)


def _digest(reference: Reference) -> bytes:
    return Pair(0, reference.text, "").source_digest


def _reference(row: dict[str, Any], number: int, origin: str) -> Reference:
    """Reference of a row of a prepared dataset.

    Raises:
        CorpusError: a row of another kind, or one whose source or target is empty.
    """
    if "messages" in row:
        turns = tuple((one["role"], one["content"]) for one in row["messages"])
        last = max((place for place, (role, _) in enumerate(turns) if role == "assistant"), default=0)
        source, target = turns[:last], turns[last][1] if last else ""
    elif columns := next((both for both in (("source", "target"), ("question", "answer")) if both[0] in row), None):
        source, target = (row[column] for column in columns)
    else:
        raise CorpusError(f"{origin} has rows of {' and '.join(row)}: references are pairs, problems or conversations")
    reference = Reference(number, source, target)
    for name, text in (("source", reference.text), ("target", target)):
        if not text.strip():
            raise CorpusError(f"{origin}: row {number} has an empty {name}: prepare it without such rows")
    return reference
