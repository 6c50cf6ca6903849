"""Numbers that moved between two sets of records of the same experiments, such as those of two versions.

Sizes, counts and qualities are compared: the quantities that records declare. Times, speeds and memory are left out:
two runs of one version measure them differently. The counts of each stage are compared too. Two numbers of different
protocols, and two records of different settings, have no change: the difference has another cause.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from slimsweep.atomic import write_text
from slimsweep.checks import is_number
from slimsweep.errors import StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.hints import did_you_mean
from slimsweep.records.points import AXES, TEXTS, Record, label, settings_of
from slimsweep.records.quantities import quantities_of
from slimsweep.records.table import Table

Number = int | float
STAGE_COUNTS = ("layers", "weights", "zeros", "sparsity")
"""Counts of a stage that are compared."""
KEPT = ("key", *AXES, "weights", "baseline", "dtype")
"""Fields that a file of numbers has beside the numbers themselves."""
KEPT_CONFIG = ("calibration", "data")
"""Parts of the config that a file of numbers has: texts that a job looked at are settings of its record."""


@dataclass(frozen=True)
class Move:
    """A number that differs, or a record or number that only one side has."""

    record: Record
    field: str = ""
    """Field of the record, such as `gmacs` or `stages.0.zeros`; empty: the whole record."""
    before: Number | None = None
    now: Number | None = None
    allowed: Number = 0.0
    """Largest relative difference, of either sign, that is no fault."""
    reason: str = ""
    """Words where two numbers cannot be compared: another protocol, other settings, or one side lacks it."""
    is_fault: bool = True

    @property
    def change(self) -> Number | None:
        """Signed difference relative to the number before; None where there is a reason instead."""
        return None if self.reason else _relative_change(self.before, self.now)

    @property
    def has_other_protocol(self) -> bool:
        """Whether both sides have the number, by two protocols."""
        return bool(self.reason) and None not in (self.before, self.now)

    def plain(self) -> dict[str, Any]:
        """Values for a file."""
        place = {name: self.record.get(name) for name in ("key", *AXES)}
        values = {name: getattr(self, name) for name in ("field", "before", "now", "change", "allowed", "reason")}
        if values["change"] is not None and math.isinf(values["change"]):  # from 0: JSON has no such number
            values["change"] = None
        return place | values | {"is_fault": self.is_fault}


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison: the moves, and the number of records and numbers compared."""

    moves: list[Move] = field(default_factory=list)
    records: int = 0
    numbers: int = 0

    @property
    def faults(self) -> list[Move]:
        """Moves beyond what is allowed."""
        return [move for move in self.moves if move.is_fault]

    @property
    def summary(self) -> str:
        """One line: what was compared and how much of it moved."""
        moved = sum(1 for move in self.moves if move.change is not None)
        others = sum(1 for move in self.moves if move.has_other_protocol)
        protocols = f", {others} of another protocol" if others else ""
        beyond = f"{len(self.faults)} beyond what is allowed" if self.faults else "none beyond what is allowed"
        return f"{self.numbers} numbers of {self.records} records compared: {moved} moved{protocols}, {beyond}"


def tolerances_of(given: Sequence[str]) -> dict[str, Number]:
    """Relative tolerances as they are typed: `0.001` for every field, `perplexity_*=0.002` for some.

    Raises:
        StoreError: one is no number of at least 0.
    """
    tolerances = {}
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
        tolerances[name or "*"] = value
    return tolerances


def compare(before: Sequence[Record], now: Sequence[Record], tolerances: Mapping[str, Number]) -> Comparison:
    """Every number of `before` that is another one in `now`.

    Records are paired by key, then by point and settings, then by point alone. What only `before` has is a fault. What
    only `now` has is named.

    Raises:
        StoreError: a tolerance is for a field that no record has.
    """
    _refuse_idle(tolerances, [*before, *now])
    pairs, missing, new = _paired(before, now)
    moves, numbers = [], 0
    for record_before, record_now in pairs:
        moves_of_record, count = _moves(record_before, record_now, tolerances)
        moves += moves_of_record
        numbers += count
    moves += [Move(record, reason="this record is missing now") for record in missing]
    moves += [Move(record, reason="this record is new", is_fault=False) for record in new]
    return Comparison(moves, len(pairs), numbers)


def _refuse_idle(tolerances: Mapping[str, Number], records: Sequence[Record]) -> None:
    fields = dict.fromkeys(name for record in records for name in numbers_of(record, quantities_of([record])))
    idle = [name for name in tolerances if not any(fnmatchcase(known, name) for known in fields)]
    if idle:
        listed = ", ".join([*(name for name in fields if not name.startswith("stages.")), "stages.*"])
        hint = f" {did_you_mean(idle[0], fields)}".rstrip()
        raise StoreError(f"--tolerance {', '.join(idle)}: no record has such a field.{hint} Fields: {listed}")


def _moves(before: Record, now: Record, tolerances: Mapping[str, Number]) -> tuple[list[Move], int]:
    """Moves of one record, and how many numbers were compared: none where the settings are two experiments."""
    others, is_other_experiment = _other_settings(before, now)
    moves = [Move(now, reason=others, is_fault=is_other_experiment)] if others else []
    if is_other_experiment:
        return moves, 0
    known = quantities_of([now, before])  # a kept file declares nothing
    numbers_before, numbers_now = numbers_of(before, known), numbers_of(now, known)
    defaults = {name: quantity.tolerance for name, quantity in known.items()}
    for name in dict.fromkeys([*numbers_before, *numbers_now]):
        values = numbers_before.get(name), numbers_now.get(name)
        protocols = [(record.get("protocols") or {}).get(name) for record in (before, now)]
        allowed = _tolerance_of(name, tolerances, defaults)
        reason = _reason(values, protocols)
        if values[0] == values[1] and not reason:
            continue
        is_fault = values[0] is not None if reason else abs(_relative_change(*values)) > allowed
        moves.append(Move(now, name, *values, allowed, reason, is_fault))
    return moves, len(numbers_before.keys() & numbers_now.keys())


def _reason(values: Sequence[Number | None], protocols: Sequence[str | None]) -> str:
    """Words where two numbers, before and now, cannot be compared; empty where they can."""
    if values[0] is None:
        return "this number is new"
    if values[1] is None:
        return "this number is missing now"
    return "" if protocols[0] == protocols[1] else f"another protocol: {protocols[0]} before, {protocols[1]} now"


def _other_settings(before: Record, now: Record) -> tuple[str, bool]:
    """Words for the settings that differ, and whether one has two values: then these are two experiments.

    A setting that only one side has is a knob that a version added or dropped. The numbers tell whether it matters.
    """
    if before["key"] == now["key"]:
        return "", False
    sides = [
        {name: value for name, value in settings_of(record).items() if value is not None} for record in (before, now)
    ]
    has_texts = all("config" in record for record in (before, now))  # a table and an old kept file have none
    names = [name for name in dict.fromkeys([*sides[0], *sides[1]]) if has_texts or not name.startswith(TEXTS)]
    differing = [name for name in names if _text(sides[0].get(name)) != _text(sides[1].get(name))]
    listed = "; ".join(
        f"{name} {_text(sides[0].get(name, 'absent'))} before, {_text(sides[1].get(name, 'absent'))} now"
        for name in differing
    )
    is_other = any(name in sides[0] and name in sides[1] for name in differing)
    return f"other settings: {listed}" if listed else "", is_other


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def numbers_of(record: Record, known: Mapping[str, Quantity]) -> dict[str, Number]:
    """The numbers of a record that are compared, by field; those of a stage as `stages.0.zeros`."""
    fields = [name for name, quantity in known.items() if not quantity.varies]
    numbers = {name: record[name] for name in fields if is_number(record.get(name))}
    for position, stage in enumerate(record.get("stages") or []):
        for name in STAGE_COUNTS:
            if is_number(stage.get(name)):
                numbers[f"stages.{position}.{name}"] = stage[name]
    return numbers


def _relative_change(before: Number, now: Number) -> Number:
    if before == now:
        return 0.0
    return (now - before) / abs(before) if before else math.copysign(math.inf, now)


def _tolerance_of(name: str, tolerances: Mapping[str, Number], defaults: Mapping[str, Number | None]) -> Number:
    """Tolerance of a field: of the longest pattern that fits it, else its quantity's own, else none."""
    fitting = [pattern for pattern in tolerances if fnmatchcase(name, pattern)]
    return tolerances[max(fitting, key=len)] if fitting else defaults.get(name) or 0.0


def _paired(
    before: Sequence[Record], now: Sequence[Record]
) -> tuple[list[tuple[Record, Record]], list[Record], list[Record]]:
    """Records of the same experiment, and those of each side that have no partner, all in the order given."""
    pairs, rest_before, rest_now = [], list(before), list(now)
    for rule in (lambda record: record["key"], lambda record: (_place(record), _settings(record)), _place):
        groups_before, groups_now = _by(rule, rest_before), _by(rule, rest_now)
        # Keys of a dict stay in the order of the records: a set of texts has another order in each process.
        single = dict.fromkeys(
            place for place, group in groups_before.items() if len(group) == len(groups_now.get(place, [])) == 1
        )
        pairs += [(groups_before[place][0], groups_now[place][0]) for place in single]
        rest_before = [record for place, group in groups_before.items() if place not in single for record in group]
        rest_now = [record for place, group in groups_now.items() if place not in single for record in group]
    return pairs, rest_before, rest_now


def _by(rule: Callable[[Record], Any], records: Sequence[Record]) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(rule(record), []).append(record)
    return groups


def _place(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(axis) for axis in AXES)


def _settings(record: Record) -> str:
    return json.dumps(settings_of(record), sort_keys=True, default=str)


def table_of(comparison: Comparison, names: tuple[str, str]) -> Table:
    """Moves as a table, faults first."""
    table = Table(notes=[f"before: {names[0]}", f"now: {names[1]}", comparison.summary])
    moves = sorted(comparison.moves, key=lambda move: not move.is_fault)
    has_several_models = len({move.record.get("model") for move in moves}) > 1
    if has_several_models:
        table.add("model", [move.record["model"] for move in moves], True)
    table.add("record", [label(move.record) for move in moves], True)
    table.add("number", [move.field for move in moves], True)
    for heading, values in (("before", [move.before for move in moves]), ("now", [move.now for move in moves])):
        table.add(heading, ["" if value is None else f"{value:.10g}" for value in values])
    table.add("change", ["" if move.change is None else f"{100 * move.change:+.2g} %" for move in moves])
    table.add("allowed", ["" if move.reason else f"{100 * move.allowed:g} %" for move in moves])
    table.add("", [move.reason or ("moved" if move.is_fault else "allowed") for move in moves], True)
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
    quantities = {name: quantity for name, quantity in quantities_of([record]).items() if not quantity.varies}
    fields = {name: record[name] for name in (*KEPT, *sorted(quantities)) if name in record}
    protocols = {name: text for name, text in (record.get("protocols") or {}).items() if name in quantities}
    stages = [
        {name: stage.get(name) for name in ("name", "fields", *STAGE_COUNTS)} for stage in record.get("stages") or []
    ]
    config = {name: part for name, part in (record.get("config") or {}).items() if name in KEPT_CONFIG}
    return fields | {"protocols": protocols, "stages": stages} | ({"config": config} if config else {})


def read(path: Path) -> list[Record]:
    """Records of a file that `write` or `slim table --format json` made.

    Raises:
        StoreError: it is no list of records, or a record holds something else where stages or numbers belong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as JSON ({error}): give a file of `slim compare --keep`") from error
    if not isinstance(content, list) or not all(
        isinstance(record, dict) and {"key", *AXES} <= record.keys() for record in content
    ):
        raise StoreError(f"{path} is no list of records: give a file of `slim compare --keep` or an outputs folder")
    faults = [f"record {place}: {fault}" for place, record in enumerate(content, 1) for fault in _faults(record)]
    if faults:
        raise StoreError(f"{path} is damaged: {'; '.join(faults)}. Give a file of `slim compare --keep`")
    return content


def _faults(record: Record) -> list[str]:
    """Reasons why a record of a file cannot be compared."""
    faults = [f"{name} is no text" for name in ("key", "model", "technique") if not isinstance(record[name], str)]
    for name in ("protocols", "quantities", "config"):
        if not isinstance(record.get(name) or {}, dict):
            faults.append(f"{name} is no mapping of names")
    if faults:
        return faults
    try:
        known = quantities_of([record])
    except (TypeError, ValueError, AttributeError) as error:
        return [f"quantities cannot be read ({error})"]
    faults += _number_faults("", record, known)
    stages = record.get("stages") or []
    if not isinstance(stages, list):
        return [*faults, "stages is no list"]
    for position, stage in enumerate(stages):
        if not (isinstance(stage, dict) and "name" in stage and isinstance(stage.get("fields", {}), dict)):
            faults.append(f"stages.{position} is no stage: a mapping with a name and fields")
        else:
            faults += _number_faults(f"stages.{position}.", stage, STAGE_COUNTS)
    return faults


def _number_faults(prefix: str, values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    wrong = [name for name in names if values.get(name) is not None and not _is_finite(values[name])]
    return [f"{prefix}{name} is {values[name]!r}, no finite number" for name in wrong]


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
