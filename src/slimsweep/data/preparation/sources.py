"""Rows of the official splits in standard columns, with every fault of their files told together."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from slimsweep.data.corpora import Corpora
from slimsweep.data.instructions import has_answer, turns_of
from slimsweep.data.pairs import TABLES, read_lines
from slimsweep.data.preparation.dataset import TRAIN, Dataset
from slimsweep.data.preparation.store import local_digest
from slimsweep.data.problems import MARK, answer_of
from slimsweep.data.rows import kind_of
from slimsweep.errors import ConfigError, CorpusError
from slimsweep.hints import did_you_mean
from slimsweep.progress import watcher

SHOWN = 3
"""Rows, labels and columns of a fault that are shown."""
SHOWN_COLUMNS = 12
PROBED = 1000
"""Rows that are looked at for a column that some rows leave out."""


@dataclass(frozen=True)
class SourceRows:
    """Rows of one split as read, and the place they came from."""

    rows: list[dict[str, Any]]
    origin: str
    digest: str
    """Digest of the local file or package, or the arguments of the hub."""


def read_sources(dataset: Dataset, corpora: Corpora) -> tuple[dict[str, SourceRows], dict[str, str]]:
    """Rows of every split that is at hand, and the reason for each split that is not.

    Raises:
        ConfigError: columns that are not there, labels outside the set, empty references, damaged files; all together.
        CorpusError: no split is at hand.
    """
    found: dict[str, SourceRows] = {}
    absent: dict[str, str] = {}
    faults: list[str] = []
    for split, source in dataset.splits.items():
        watcher().step(f"read {split}")
        try:
            raw, origin = _raw_rows(dataset, split, corpora)
        except CorpusError as error:
            is_local = source.embedded or source.rows().local_path(corpora.data_dir)
            if is_local:
                faults.append(str(error))
            else:
                absent[split] = str(error)
            continue
        rows, wrong = standard_rows(raw, dataset, split)
        faults += [f"{split} ({origin}): {fault}" for fault in wrong]
        found[split] = SourceRows(rows, origin, local_digest(source, corpora) or f"hub {sorted(source.hub.items())}")
    if faults:
        raise ConfigError(faults)
    if not found:
        raise CorpusError(f"no split of dataset {dataset.name} is at hand. " + "; ".join(absent.values()))
    if dataset.made and TRAIN not in found:
        raise CorpusError(
            f"{', '.join(dataset.made)} are made of training rows, and these are missing: {absent[TRAIN]}"
        )
    return found, absent


def _raw_rows(dataset: Dataset, split: str, corpora: Corpora) -> tuple[list[dict[str, Any]], str]:
    """Rows as the source has them; documents of a text file are cut, line-aligned targets joined."""
    source, columns = dataset.splits[split], dataset.source_columns(split)
    path = None if source.embedded else source.rows().local_path(corpora.data_dir)
    if path and (target := source.target_path(path, corpora.data_dir)):
        pairs = [dict(zip(columns.values(), pair, strict=True)) for pair in read_lines(path, target)]
        return pairs[: source.first], f"{path} and {target}"
    column = columns.get("text", "text")
    rows, origin = source.rows().read(corpora.data_dir, corpora.cache_dir, column)
    is_lines = kind_of(path) not in TABLES if path else source.hub_lines and not source.embedded
    if source.between and is_lines:
        parts = re.split(source.between, "".join(row[column] for row in rows))
        rows = [{column: part} for part in parts if part and part.strip()]
    return rows[: source.first], origin


def standard_rows(raw: list[dict[str, Any]], dataset: Dataset, split: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows in standard columns, and every fault of the given ones. A training row may have an empty text."""
    if not raw:
        return [], ["holds no row"]
    raw = [_extracted(row, dataset.patterns) for row in raw] if dataset.patterns else raw
    if dataset.kind == "conversations":
        rows, faults = _conversations(raw)
    else:
        columns = dataset.source_columns(split)
        if faults := _column_faults(raw, columns):
            return [], faults
        rows = [{name: _at(row, column) for name, column in columns.items()} for row in raw]
        faults = _text_faults(rows, columns)
        faults += _numbered(rows, dataset.labels) if dataset.kind == "labelled" else []
        faults += _unsolved(rows) if dataset.kind == "problems" and not faults else []
    if not faults and split != TRAIN and dataset.kind != "text":
        faults = _empty_faults(rows)
    return rows, faults


def _extracted(row: dict[str, Any], patterns: dict[str, str]) -> dict[str, Any]:
    """The row with the first group of a pattern in place of each column that it matches."""
    changed = dict(row)
    for column, pattern in patterns.items():
        match = re.search(pattern, row[column]) if isinstance(row.get(column), str) else None
        changed |= {column: match[1]} if match else {}
    return changed


def _at(row: dict[str, Any], column: str) -> Any:
    """Value of a column, or of a field of one: `translation.de`; None where it is not there."""
    if column in row:
        return row[column]
    head, _, field = column.partition(".")
    inner = row.get(head)
    return inner.get(field) if field and isinstance(inner, dict) else None


def _column_faults(raw: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """Columns that no row has, with the names that are there."""
    names = [str(name) for name in raw[0] if name is not None]
    there = ", ".join(names[:SHOWN_COLUMNS]) + (" ..." if len(names) > SHOWN_COLUMNS else "")
    return [
        f"there is no column {column!r} for {name}. {did_you_mean(column, names)} There: {there}. Set "
        f"columns.{name}=NAME".replace(".  ", ". ")
        for name, column in columns.items()
        if all(_at(row, column) is None for row in raw[:PROBED])
    ]


def _text_faults(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """Values that are no text; None, as a table has it for an empty cell, becomes an empty one."""
    faults = []
    for name in (name for name in columns if name != "label"):
        wrong = [place for place, row in enumerate(rows, 1) if not isinstance(row[name], str | None)]
        if wrong:
            value = f"{rows[wrong[0] - 1][name]!r:.40}"
            faults.append(f"{_rows_text(wrong)} no text in the column {columns[name]!r}, but such as {value}")
        for row in rows:
            row[name] = row[name] or ""
    return faults


def _numbered(rows: list[dict[str, Any]], labels: tuple[str, ...]) -> list[str]:
    """Faults of labels outside the set; all others become numbers in place."""
    numbers = {str(number): number for number in range(len(labels))} | {name: at for at, name in enumerate(labels)}
    outside: Counter[str] = Counter()
    for row in rows:
        given = str(row["label"]).strip()
        if given in numbers:
            row["label"] = numbers[given]
        else:
            outside[given] += 1
    if not outside:
        return []
    shown = ", ".join(f"{label!r} ({count} rows)" for label, count in outside.most_common(SHOWN))
    more = f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
    return [
        f"labels outside the set: {shown}{more}. Allowed: 0 to {len(labels) - 1}, or {', '.join(labels)}. Set "
        "labels=[...]"
    ]


def _unsolved(rows: list[dict[str, Any]]) -> list[str]:
    wrong = [
        place
        for place, row in enumerate(rows, 1)
        if row["answer"].strip() and (MARK not in row["answer"] or answer_of(row["answer"]) is None)
    ]
    return [f"{_rows_text(wrong)} an answer that does not end in '{MARK} NUMBER'"] if wrong else []


def _conversations(raw: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    rows, faults = [], []
    for number, row in enumerate(raw, 1):
        try:
            turns = turns_of(row, number, "")
        except CorpusError as error:
            faults.append(str(error).removeprefix(": "))
            continue
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    more = [f"and {len(faults) - SHOWN} rows more like these"] if len(faults) > SHOWN else []
    return rows, faults[:SHOWN] + more


def _empty_faults(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of an evaluation split that have no input or no reference."""
    faults = []
    for name in rows[0] if rows else ():
        empty = [place for place, row in enumerate(rows, 1) if is_empty(row[name])]
        if empty:
            faults.append(f"{_rows_text(empty)} an empty {name}: fill it, or remove the row")
    return faults


def is_empty(value: Any) -> bool:
    """Whether a column has nothing to learn or to compare with: a blank text, or turns without an answer."""
    if isinstance(value, list):
        return not has_answer(tuple((turn["role"], turn["content"].strip()) for turn in value))
    return isinstance(value, str) and not value.strip()


def _rows_text(places: list[int]) -> str:
    """Beginning of a sentence on rows: `row 3 has`, `rows 3, 5, 8 and 2 more have`."""
    if len(places) == 1:
        return f"row {places[0]} has"
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"rows {', '.join(map(str, places[:SHOWN]))}{more} have"
