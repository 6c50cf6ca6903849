"""Quantities of records: as each record declares its fields, else as the metrics of this package do."""

import functools
import importlib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from slimsweep.evaluation.quantity import Quantity
from slimsweep.paths import config_root
from slimsweep.records.points import DEVIATION, Record

COMPRESS_SECONDS = Quantity(
    field="compress_seconds",
    label="seconds to compress",
    unit="s",
    higher_is_better=False,
    group="cost",
    heading="compress s",
    format=".1f",
    place=90,
    varies=True,
)
"""Time that the stages of a chain took, which the job itself measures."""


def quantities_of(records: Iterable[Record]) -> dict[str, Quantity]:
    """Quantities that some record holds, by field, in the order of columns."""
    found: dict[str, Quantity] = {}
    for record in records:
        own = record.get("quantities")
        found |= {field: Quantity.of(plain) for field, plain in (own or {}).items() if field not in found}
        # An older version declared nothing: its records, and its measurements in records of today.
        undeclared = record if own is None else record.get("identities") or ()
        names = [field for field in undeclared if field not in found and not field.endswith(DEVIATION)]
        found |= {one.field: one for field in names if (one := builtin(field))}
        if COMPRESS_SECONDS.field in record:
            found.setdefault(COMPRESS_SECONDS.field, COMPRESS_SECONDS)
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))


def quantity(field: str, records: Iterable[Record] = ()) -> Quantity:
    """Quantity of one field: as records declare it, else as this package does, else a plain number."""
    declared = next((plain for record in records if (plain := (record.get("quantities") or {}).get(field))), None)
    if declared:
        return Quantity.of(declared)
    return builtin(field) or Quantity(field=field, label=field.replace("_", " "))


def in_group(records: Iterable[Record], group: str) -> list[Quantity]:
    """Quantities of one group, quality or cost, in the order of columns."""
    return [one for one in quantities_of(records).values() if one.group == group]


def of_kind(records: Iterable[Record], kind: str) -> list[Quantity]:
    """Quantities of one kind, such as perplexity or size, in the order of columns.

    Records of older versions name no kinds; this package's own declaration of the field tells it there.
    """
    every = quantities_of(records).values()
    named = [one for one in every if one.kind == kind]
    return named or [one for one in every if not one.kind and (own := builtin(one.field)) and own.kind == kind]


@functools.cache
def builtin(field: str) -> Quantity | None:
    """Quantity that a metric of this package declares for a field; None where none does."""
    plain, _, label = field.partition("[")
    fitting = [one for one in _declared() if fnmatchcase(plain, one.field)]
    if not fitting:
        return None
    nearest = max(fitting, key=lambda one: len(one.field))  # accuracy_stderr_*, not accuracy_*
    named = nearest.named(plain[len(nearest.field) - 1 :]) if "*" in nearest.field else nearest
    return named.labelled(label.removesuffix("]")) if label else named


@functools.cache
def _declared() -> tuple[Quantity, ...]:
    """All that the metrics of conf/metric declare. Imports them, and torch, which takes seconds."""
    found = [COMPRESS_SECONDS]
    for file in sorted((config_root() / "conf" / "metric").glob("*.yaml")):
        target = re.search(r"_target_: (\S+)", file.read_text(encoding="utf-8"))
        if target:
            module, _, name = target[1].rpartition(".")
            found += getattr(importlib.import_module(module), name).declares
    return tuple(found)
