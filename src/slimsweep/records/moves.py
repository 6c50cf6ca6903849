"""Numbers that moved between two sets of records of the same experiments, such as those of two versions.

Sizes, counts and qualities are compared: the quantities that records declare. Times, speeds and memory are left out:
two runs of one version measure them differently. The counts of each stage are compared too.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from slimsweep.atomic import write_text
from slimsweep.checks import is_number
from slimsweep.errors import StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.points import AXES, Record, label, settings_of
from slimsweep.records.quantities import quantities_of
from slimsweep.records.table import Table

Number = int | float
STAGE_COUNTS = ("layers", "weights", "zeros", "sparsity")
"""Counts of a stage that are compared."""
KEPT = ("key", *AXES, "weights", "baseline", "dtype")
"""Fields that a file of numbers has beside the numbers themselves."""


@dataclass(frozen=True)
class Move:
    """A number that differs, or a record or number that only one side has."""

    record: Record
    field: str = ""
    """Field of the record, such as `gmacs` or `stages.0.zeros`; empty: the whole record."""
    before: Number | None = None
    now: Number | None = None
    allowed: Number = 0.0
    """Largest relative difference that is no fault."""
    reason: str = ""
    """Words where the two numbers are not all: another protocol, or one side lacks it."""
    is_fault: bool = True

    @property
    def change(self) -> Number | None:
        """Difference relative to the number before; None where one of them is missing."""
        return None if None in (self.before, self.now) else _relative(self.before, self.now)

    def plain(self) -> dict[str, Any]:
        """Values for a file."""
        named = {name: self.record.get(name) for name in ("key", *AXES)}
        values = {name: getattr(self, name) for name in ("field", "before", "now", "change", "allowed", "reason")}
        return named | values | {"is_fault": self.is_fault}


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison: the moves, and the number of records and numbers compared."""

    moves: list[Move] = field(default_factory=list)
    records: int = 0
    numbers: int = 0

    @property
    def faults(self) -> list[Move]:
        """Moves beyond what is allowed."""
        return [one for one in self.moves if one.is_fault]

    @property
    def summary(self) -> str:
        """One line: what was compared and how much of it moved."""
        moved = sum(1 for one in self.moves if one.change is not None)
        beyond = f"{len(self.faults)} beyond what is allowed" if self.faults else "none beyond what is allowed"
        return f"{self.numbers} numbers of {self.records} records compared: {moved} moved, {beyond}"


def tolerances_of(given: Sequence[str]) -> dict[str, Number]:
    """Relative tolerances as they are typed: `0.001` for every field, `perplexity_*=0.002` for some.

    Raises:
        StoreError: one is no number of at least 0.
    """
    found = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise StoreError(
                f"--tolerance {text}: give a relative difference of at least 0, for all fields (0.001) or for some "
                "(perplexity_*=0.001)"
            )
        found[name or "*"] = value
    return found


def compare(before: Sequence[Record], now: Sequence[Record], tolerances: Mapping[str, Number]) -> Comparison:
    """Every number of `before` that is another one in `now`.

    Records are paired by key, then by point and settings, then by point alone. What only `before` has is a fault. What
    only `now` has is told.
    """
    pairs, gone, new = _paired(before, now)
    moves, numbers = [], 0
    for old, record in pairs:
        found, count = _moves(old, record, tolerances)
        moves += found
        numbers += count
    moves += [Move(record, reason="this record is missing now") for record in gone]
    moves += [Move(record, reason="this record is new", is_fault=False) for record in new]
    return Comparison(moves, len(pairs), numbers)


def _moves(before: Record, now: Record, tolerances: Mapping[str, Number]) -> tuple[list[Move], int]:
    """Moves of one record, and how many numbers were compared."""
    known = quantities_of([now, before])  # a kept file declares nothing
    old, new = numbers_of(before, known), numbers_of(now, known)
    own = {name: one.tolerance for name, one in known.items()}
    moves = []
    for name in dict.fromkeys([*old, *new]):
        allowed = _allowed(name, tolerances, own)
        a, b = old.get(name), new.get(name)
        protocols = [(record.get("protocols") or {}).get(name) for record in (before, now)]
        reason, is_fault = "", True
        if a is None:
            reason, is_fault = "this number is new", False
        elif b is None:
            reason = "this number is missing now"
        elif protocols[0] != protocols[1]:
            reason = f"another protocol: {protocols[0]} before, {protocols[1]} now"
        elif a == b:
            continue
        else:
            is_fault = _relative(a, b) > allowed
        moves.append(Move(now, name, a, b, allowed, reason, is_fault))
    return moves, len(old.keys() & new.keys())


def numbers_of(record: Record, known: Mapping[str, Quantity]) -> dict[str, Number]:
    """The numbers of a record that are compared, by field; those of a stage as `stages.0.zeros`."""
    fields = [name for name, one in known.items() if not one.varies]
    found = {name: record[name] for name in fields if is_number(record.get(name))}
    for position, stage in enumerate(record.get("stages") or []):
        for name in STAGE_COUNTS:
            if is_number(stage.get(name)):
                found[f"stages.{position}.{name}"] = stage[name]
    return found


def _relative(before: Number, now: Number) -> Number:
    if before == now:
        return 0.0
    return abs(now - before) / abs(before) if before else math.inf


def _allowed(name: str, tolerances: Mapping[str, Number], own: Mapping[str, Number | None]) -> Number:
    """Tolerance of a field: of the longest pattern that fits it, else its quantity's own, else none."""
    fitting = [pattern for pattern in tolerances if fnmatchcase(name, pattern)]
    return tolerances[max(fitting, key=len)] if fitting else own.get(name) or 0.0


def _paired(
    before: Sequence[Record], now: Sequence[Record]
) -> tuple[list[tuple[Record, Record]], list[Record], list[Record]]:
    """Records of the same experiment, and those of each side that have no partner."""
    pairs, old, new = [], list(before), list(now)
    for rule in (lambda one: one["key"], lambda one: (_place(one), _settings(one)), _place):
        mine, theirs = _by(rule, old), _by(rule, new)
        alone = {place for place in mine if len(mine[place]) == len(theirs.get(place, [])) == 1}
        pairs += [(mine[place][0], theirs[place][0]) for place in alone]
        old = [one for place, group in mine.items() if place not in alone for one in group]
        new = [one for place, group in theirs.items() if place not in alone for one in group]
    return pairs, old, new


def _by(rule: Callable[[Record], Any], records: Sequence[Record]) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(rule(record), []).append(record)
    return groups


def _place(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(axis) for axis in AXES)


def _settings(record: Record) -> str:
    return json.dumps(settings_of(record), sort_keys=True, default=str)


def table_of(found: Comparison, names: tuple[str, str]) -> Table:
    """Moves as a table, faults first."""
    table = Table(notes=[f"before: {names[0]}", f"now: {names[1]}", found.summary])
    moves = sorted(found.moves, key=lambda one: not one.is_fault)
    several = len({one.record.get("model") for one in moves}) > 1
    if several:
        table.add("model", [one.record["model"] for one in moves], True)
    table.add("record", [label(one.record) for one in moves], True)
    table.add("number", [one.field for one in moves], True)
    for heading, values in (("before", [one.before for one in moves]), ("now", [one.now for one in moves])):
        table.add(heading, ["" if value is None else f"{value:.10g}" for value in values])
    table.add("change", ["" if one.change is None else f"{100 * one.change:.2g} %" for one in moves])
    table.add("allowed", ["" if one.reason else f"{100 * one.allowed:g} %" for one in moves])
    table.add("", [one.reason or ("moved" if one.is_fault else "allowed") for one in moves], True)
    return table


def write(path: Path, records: Sequence[Record]) -> None:
    """Keep the numbers of records in a file, for a later comparison.

    Raises:
        StoreError: the file exists.
    """
    if path.exists():
        raise StoreError(f"{path} exists, and nothing is overwritten: remove it first or give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([_kept(record) for record in records], indent=1) + "\n")


def _kept(record: Record) -> Record:
    quantities = {name: one for name, one in quantities_of([record]).items() if not one.varies}
    fields = {name: record[name] for name in (*KEPT, *sorted(quantities)) if name in record}
    protocols = {name: text for name, text in (record.get("protocols") or {}).items() if name in quantities}
    stages = [
        {name: stage.get(name) for name in ("name", "fields", *STAGE_COUNTS)} for stage in record.get("stages") or []
    ]
    return fields | {"protocols": protocols, "stages": stages}


def read(path: Path) -> list[Record]:
    """Records of a file that `write` or `slim table --format json` made.

    Raises:
        StoreError: it is no list of records.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as JSON ({error}): give a file of `slim compare --keep`") from error
    if not isinstance(content, list) or not all(
        isinstance(one, dict) and {"key", *AXES} <= one.keys() for one in content
    ):
        raise StoreError(f"{path} is no list of records: give a file of `slim compare --keep` or an outputs folder")
    return content
