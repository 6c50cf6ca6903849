"""Records as points of a sweep: their settings, their labels, and means over seeds."""

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from slimsweep.checks import is_number

Record = dict[str, Any]

DEVIATION = "_deviation"
"""Suffix of fields that hold a standard deviation over seeds."""
AXES = ("model", "technique", "pattern", "ratio", "seed")
"""The fields that place a record in a sweep."""


def settings_of(record: Record) -> dict[str, Any]:
    """Settings that may change a result, without AXES, as one flat dict."""
    settings = {name: record.get(name) for name in ("weights", "baseline", "dtype")}
    for stage in record.get("stages") or []:
        for name, value in stage.get("fields", {}).items():
            if name not in ("ratio", "pattern"):
                settings[f"{stage['name']}.{name}"] = value
    trains = any((stage.get("notes") or {}).get("training") for stage in record.get("stages") or [])
    for name, value in (record.get("config", {}).get("data") or {}).items() if trains else ():
        settings[f"data.{name}"] = value
    if record.get("seed") is not None:  # a record without a seed used no calibration text
        for name, value in (record.get("config", {}).get("calibration") or {}).items():
            settings[f"calibration.{name}"] = value
    return settings


TEXTS = ("calibration.", "data.")
"""Prefixes of settings that exist only if a stage reads text."""


def distinctions(records: Iterable[Record]) -> list[str]:
    """Text per record with the settings that differ among records of its technique and pattern: `level channel`."""
    records = list(records)
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(_kind(record), []).append(settings_of(record))
    differing = {
        kind: sorted(key for key in set().union(*members) if len({repr(value) for value in _values(key, members)}) > 1)
        for kind, members in groups.items()
    }
    return [
        ", ".join(
            f"{key.rsplit('.', 1)[-1]} {_text(settings.get(key))}"
            for key in differing[_kind(record)]
            if key in settings or not key.startswith(TEXTS)
        )
        for record in records
        for settings in [settings_of(record)]
    ]


def _values(key: str, members: list[dict[str, Any]]) -> list[Any]:
    """Values of a setting over records. A missing knob counts as None; missing settings of TEXTS are skipped."""
    return [one.get(key) for one in members if key in one or not key.startswith(TEXTS)]


def _text(value: Any) -> str:
    """Value of a setting for a label. A dict is written without brackets and quotes: `hard 0.5 soft 0.5`."""
    return " ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else str(value)


def _kind(record: Record) -> tuple:
    return record["technique"], record.get("pattern")


def over_seed(records: Iterable[Record]) -> list[Record]:
    """Average records that differ only in their seed into one row, in order of their first record.

    Numbers become their mean, with the sample standard deviation beside them as `<field>_deviation` (null for
    a single seed); `n` counts the seeds. Fields that differ otherwise, such as keys, are left out.
    """
    return [_mean(members) for members in seed_groups(records)]


def seed_groups(records: Iterable[Record]) -> list[list[Record]]:
    """Groups of records that differ only in their seed, in order of their first record."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        place = [record.get(axis) for axis in AXES if axis != "seed"]
        ratios = [stage.get("fields", {}).get("ratio") for stage in record.get("stages") or []]
        same = [place, ratios, settings_of(record), record.get("protocols"), record.get("device")]
        groups.setdefault(json.dumps(same, sort_keys=True, default=str), []).append(record)
    return list(groups.values())


def _mean(members: Sequence[Record]) -> Record:
    row: Record = {}
    for name in members[0]:
        values = [record.get(name) for record in members]
        if name == "seed":
            row |= {"n": len(members), "seeds": values}
        elif all(is_number(value) for value in values) and name not in AXES:
            row[name] = statistics.fmean(values)
            row[name + DEVIATION] = statistics.stdev(values) if len(values) > 1 else None
        elif name in ("quantities", "identities") and any(values):  # seeds may have different metrics
            row[name] = {field: one for value in reversed(values) for field, one in (value or {}).items()}
        elif all(value == values[0] for value in values):
            row[name] = values[0]
    return row


def label(record: Record) -> str:
    """Short label of a record: `wanda 0.5 2:4 seed 1`."""
    words = [record["technique"], *([f"{record['ratio']:g}"] if record.get("ratio") is not None else [])]
    words += [record["pattern"]] if record.get("pattern") not in (None, "unstructured") else []
    return " ".join([*words, f"seed {record['seed']}"] if record.get("seed") is not None else words)


def titles(records: Iterable[Record]) -> dict[str, str]:
    """Title of each record by key: its label and the settings that distinguish it, such as `rtn, bits 4`.

    If there are several models, a title begins with the model.
    """
    records = list(records)
    several = len({record["model"] for record in records}) > 1
    return {
        record["key"]: ", ".join(filter(None, (record["model"] if several else "", label(record), settings)))
        for record, settings in zip(records, distinctions(records), strict=True)
    }
