"""Filters of records, stated as data: `{technique: llm_pruner, ratio: 0.25, llm_pruner.level: block}`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from slimsweep.checks import is_number
from slimsweep.records.points import Record, settings_of

EVALUATION = "evaluation."
"""Beginning of the settings that say how a record was measured."""


def matching(records: Iterable[Record], where: Mapping[str, Any]) -> list[Record]:
    """Records that have every value of a filter.

    Args:
        where: by field of a record, or by setting (`sparsegpt.passes`, `calibration.corpus`, `*.bits`): a value, a
            list of allowed values, or a text with `*`.
    """
    return [record for record in records if all(_fits(record, name, wanted) for name, wanted in where.items())]


def meaningful(records: Iterable[Record]) -> list[Record]:
    """Records without those of random weights that no stage trained: they say nothing of a published model."""
    return [record for record in records if record.get("weights") != "random" or _is_trained(record)]


def _is_trained(record: Record) -> bool:
    return any((stage.get("notes") or {}).get("training") for stage in record.get("stages") or [])


def value_of(record: Record, name: str) -> Any:
    """A field or a setting of a record, the evaluation's (`evaluation.max_windows`) among them; None: it has none."""
    if name in record:
        return record[name]
    if name.startswith(EVALUATION):
        return _evaluation_setting(record, name.removeprefix(EVALUATION))
    return settings_of(record).get(name)


def _evaluation_setting(record: Record, name: str) -> Any:
    """A setting of the profile, or of one of its metrics; None where none is given."""
    evaluation = record.get("config", {}).get("evaluation") or {}
    metrics = (evaluation.get("metrics") or {}).values()
    given = [settings.get(name) for settings in (evaluation, *metrics) if settings]
    return next((value for value in given if value is not None), None)


def by_protocol(records: Iterable[Record], field: str, parts: Sequence[str]) -> list[Record]:
    """Records whose value of a field was measured by a protocol that has all the parts, such as `ctx=2048`."""
    return [
        record
        for record in records
        if record.get(field) is not None and set(parts) <= set((protocol(record, field) or "").split(":"))
    ]


def protocol(record: Record, field: str) -> str | None:
    """Protocol id of a measured field; None where its metric states none."""
    return (record.get("protocols") or {}).get(field)


def text(where: Mapping[str, Any]) -> str:
    """A filter in words: `llm_pruner, ratio 0.25, level block, group size null`."""
    words = [_words(where[name]) for name in ("technique",) if name in where]
    for name, value in where.items():
        title = name.rpartition(".")[2].replace("_", " ")
        if name not in ("technique", "model"):
            words.append(f"{title} {_words(value)}")
    return ", ".join(words)


def _words(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return " or ".join("null" if each is None else str(each) for each in values)


def _fits(record: Record, name: str, wanted: Any) -> bool:
    """Whether a record has a wanted value; under a name with `*`, whether one of the settings that fit has it."""
    values = [value_of(record, name)]
    if "*" in name:
        values = [value for setting, value in settings_of(record).items() if fnmatchcase(setting, name)]
    allowed = wanted if isinstance(wanted, list) else [wanted]
    return any(_equals(value, accepted) for value in values for accepted in allowed)


def _equals(value: Any, wanted: Any) -> bool:
    if is_number(value) and is_number(wanted):
        return math.isclose(value, wanted, rel_tol=1e-9)
    if isinstance(value, str) and isinstance(wanted, str):
        return fnmatchcase(value, wanted)
    return value == wanted
