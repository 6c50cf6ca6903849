"""Splits without leakage: an input, compared after normalisation, is in one split only.

A split is chosen by the hash of the input. So it is the same in every process and for any order of the rows.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from slimsweep.data.preparation.cleaning import comparable
from slimsweep.data.preparation.dataset import TRAIN, Dataset

Rows = list[dict[str, Any]]
EVALUATION_ORDER = ("test", "validation")
"""Splits that win over others where they overlap, the first most."""


def row_input(row: dict[str, Any], kind: str) -> str:
    """The part of a row that tells its split: its text, source, question, or the first turn of the user.

    Conversations that begin with one question stay together, whatever their system prompt and their later turns are.
    """
    if kind == "conversations":
        turns = row["messages"]
        first = next((turn["content"] for turn in turns if turn["role"] == "user"), None)
        return "\n".join(turn["content"] for turn in turns) if first is None else first
    return row[{"pairs": "source", "problems": "question"}.get(kind, "text")]


def input_digest(row: dict[str, Any], kind: str) -> bytes:
    """SHA-256 of the input of a row as it is compared."""
    return hashlib.sha256(comparable(row_input(row, kind)).encode()).digest()


def content_digest(row: dict[str, Any], columns: Sequence[str]) -> bytes:
    """SHA-256 of all standard columns as they are compared."""
    parts = [comparable(_joined(row[name])) for name in columns]
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in value)
    return str(value)


def without_duplicates(rows: Rows, columns: Sequence[str]) -> Rows:
    """Rows without those that equal an earlier one."""
    first: dict[bytes, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(content_digest(row, columns), row)
    return list(first.values())


def overlaps(splits: dict[str, Rows], kind: str) -> dict[tuple[str, str], list[int]]:
    """Rows of a split whose input is in another split that wins over it: indices by (split, winner)."""
    order = sorted(splits, key=_precedence)
    digests = {name: [input_digest(row, kind) for row in splits[name]] for name in order}
    sets = {name: set(values) for name, values in digests.items()}
    found = {}
    for place, loser in enumerate(order):
        for winner in order[:place]:
            shared = [index for index, digest in enumerate(digests[loser]) if digest in sets[winner]]
            if shared:
                found[loser, winner] = shared
    return found


def _precedence(name: str) -> tuple[bool, int, str]:
    """Training rows lose against all, other splits against test, then validation."""
    place = EVALUATION_ORDER.index(name) if name in EVALUATION_ORDER else len(EVALUATION_ORDER)
    return name == TRAIN, place, name


def made_splits(rows: Rows, dataset: Dataset) -> dict[str, Rows]:
    """Training rows and the splits that a dataset makes of them, each in the order of the rows.

    Rows of one input stay together. A fraction takes the inputs whose hash lies in an interval of that width. A whole
    number takes inputs in the order of their hash until there are at least so many rows.
    """
    digests = [input_digest(row, dataset.kind) for row in rows]
    chosen: dict[bytes, str] = {}
    start = 0.0
    for name, part in dataset.made.items():
        if isinstance(part, int):
            chosen |= dict.fromkeys(_first(digests, part, chosen), name)
            continue
        chosen |= {
            digest: name for digest in digests if digest not in chosen and start <= _place(digest) < start + part
        }
        start += part
    split_of = [chosen.get(digest, TRAIN) for digest in digests]
    names = (TRAIN, *dataset.made)
    return {name: [row for row, split in zip(rows, split_of, strict=True) if split == name] for name in names}


def _place(digest: bytes) -> float:
    """A digest as a number in [0, 1)."""
    return int.from_bytes(digest[:6]) / 2**48


def _first(digests: Sequence[bytes], count: int, taken: dict[bytes, str]) -> list[bytes]:
    """Digests of at least so many rows, in their own order, that no other split has."""
    rows: dict[bytes, int] = {}
    for digest in digests:
        if digest not in taken:
            rows[digest] = rows.get(digest, 0) + 1
    first, total = [], 0
    for digest in sorted(rows):
        if total >= count:
            break
        first.append(digest)
        total += rows[digest]
    return first
