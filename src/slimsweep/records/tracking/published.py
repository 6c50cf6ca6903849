"""Published part of a record: its fields under their own names, without folders, hosts or users."""

from collections.abc import Sequence
from typing import Any

from slimsweep.checks import is_number
from slimsweep.records.points import Record
from slimsweep.records.portable import portable
from slimsweep.records.quantities import in_group

CONFIG_AXES = ("key", "model", "technique", "pattern", "ratio", "seed", "dtype", "device", "baseline")


ID_CHARACTERS = 16
"""Length of a run's id: the first characters of its record's key."""


def run_id(record: Record) -> str:
    """Id of a record's run. A migrated record keeps the run of its earlier key."""
    return record.get("previous_key", record["key"])[:ID_CHARACTERS]


def config_of(record: Record) -> dict[str, Any]:
    """Config of a dashboard's run: the axes as plain words, all settings below `settings`."""
    return portable({name: record.get(name) for name in CONFIG_AXES} | {"settings": record.get("config", {})})


def summary_of(record: Record) -> dict[str, Any]:
    """Every field of a record but its settings and its quantities, which are no results, under the same names."""
    return portable({name: value for name, value in record.items() if name not in ("config", "quantities")})


def point_of(record: Record) -> dict[str, float]:
    """The numbers of a record over its ratio; what has none, such as the dense model, stands at 0."""
    numbers = {name: value for name, value in record.items() if is_number(value) and name != "seed"}
    return numbers | {"ratio": record.get("ratio") or 0.0}


def training_curves(record: Record) -> dict[str, list[dict[str, int | float]]]:
    """Points of the loss curve of each stage that trained, by the name of the stage."""
    curves = {}
    for stage in record.get("stages") or []:
        training = (stage.get("notes") or {}).get("training") or {}
        if points := training.get("curve"):
            curves[stage["name"]] = [
                {name: value for name, value in point.items() if value is not None} for point in points
            ]
    return curves


def words(record: Record) -> list[str]:
    """Model, technique and level, as they name and tag a run: `smollm2_135m llm_pruner channel ratio=0.2 seed=0`."""
    level = [stage["fields"]["level"] for stage in record.get("stages") or [] if "level" in stage.get("fields", {})]
    level += [] if record.get("ratio") is None else [f"ratio={record['ratio']:g}"]
    level += [] if record.get("pattern") in (None, "unstructured") else [record["pattern"]]
    level += [] if record.get("seed") is None else [f"seed={record['seed']}"]
    return portable([record["model"], record["technique"], *level])


def scalar_table(records: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the fields that are no lists or dicts in any record."""
    names = dict.fromkeys(name for record in records for name in record)
    columns = [name for name in names if not any(isinstance(record.get(name), dict | list) for record in records)]
    return columns, [[portable(record.get(name)) for name in columns] for record in records]


def curves_over_ratio(records: Sequence[Record]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Points (ratio, value) of each quality quantity, by field, then by technique and pattern."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    shown = [one.field for one in in_group(records, "quality")]
    for record in records:
        label = " ".join(word for word in words(record) if not word.startswith(("ratio=", "seed=")))
        for name in shown:
            if record.get(name) is not None and record.get("ratio") is not None:
                curves.setdefault(name, {}).setdefault(label, []).append((record["ratio"], record[name]))
    return {name: {label: sorted(lines[label]) for label in sorted(lines)} for name, lines in curves.items()}
