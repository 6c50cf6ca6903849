"""Warnings of a report: results that overflowed or lie far off, requests that were not met, jobs without a record."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimsweep.checks import is_number
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.points import Record, titles
from slimsweep.records.quantities import in_group, of_kind
from slimsweep.records.store import JobStatus, Store

FAR = 10.0
"""A perplexity so many times that of the dense model is far off."""
RATIO_TOLERANCE = 0.01
"""Largest distance of an achieved ratio from the requested one. Counts are rounded down in each row or layer."""
NOT_FINITE = ("not finite", "perplexity overflowed")
"""Words in the reasons of values that were measured and are no number."""
BITS_TOLERANCE = 0.1
"""Largest share of bits that scales and tables may add without a warning."""


@dataclass(frozen=True)
class Caution:
    """One warning, and the keys of the records that it is about."""

    kind: str
    """Heading of its group, the same for all warnings of one kind."""
    text: str
    keys: tuple[str, ...] = ()


def cautions(store: Store, records: Sequence[Record], jobs: dict[str, list[JobStatus]]) -> list[Caution]:
    """Every warning but differences that are noise, the gravest kind first; `jobs` are the jobs of each sweep."""
    own = [
        *(caution for record in records for caution in _diverged(record)),
        *(caution for record in records for caution in _far_off(store, record, records)),
        *(caution for record in records for caution in _not_as_asked(record)),
    ]
    names = titles(records)
    named = [replace(caution, text=f"{names[caution.keys[0]]}: {caution.text}") for caution in own]
    return [*_without_record(jobs), *named, *_several_protocols(records)]


def _without_record(jobs: dict[str, list[JobStatus]]) -> list[Caution]:
    found = []
    for sweep, states in jobs.items():
        for job in states:
            if job.state != "done":
                reason = f": {job.reason}" if job.reason else ""
                found.append(Caution("Missing jobs", f"{sweep}: {job.label} is {job.state}{reason}"))
    return found


def _diverged(record: Record) -> list[Caution]:
    """Qualities that are not finite, and training that ended worse than it began or had no finite loss."""
    found, reasons = [], record.get("reasons") or {}
    for one in in_group([record], "quality"):
        reason = reasons.get(one.field, "")
        if record.get(one.field) is None and any(words in reason for words in NOT_FINITE):
            found.append(_of(record, "Divergences", f"{one.title} has no value: {reason}"))
    for stage in record.get("stages") or []:
        training = (stage.get("notes") or {}).get("training") or {}
        start, end = training.get("loss_start"), training.get("loss_end")
        if training and not is_number(end):
            found.append(_of(record, "Divergences", f"the loss of {stage['name']} is not finite at its end"))
        elif is_number(start) and is_number(end) and end > start:
            text = f"the loss of {stage['name']} rose from {start:.4g} to {end:.4g}"
            found.append(_of(record, "Divergences", text))
    return found


def _of(record: Record, kind: str, text: str) -> Caution:
    return Caution(kind, text, (record["key"],))


def _far_off(store: Store, record: Record, records: Sequence[Record]) -> list[Caution]:
    """Perplexities more than FAR times that of the base, measured by the same protocol."""
    found = []
    for one in of_kind([record], "perplexity"):
        base = base_value(store, record, one, records)
        value = record.get(one.field)
        if base and value is not None and value > FAR * base:
            factor = times(value / base)
            text = f"{one.title} {one.text(value)} is {factor} times that of the dense model ({one.text(base)})"
            found.append(_of(record, f"Perplexity over {FAR:g} times dense", text))
    return found


def base_value(store: Store, record: Record, one: Quantity, records: Sequence[Record]) -> int | float | None:
    """Value of a quantity in the base of a record, by the same measurement; None where the base has none.

    Records of a base in the report are read first, then the store.
    """
    key = record.get("base_key")
    identity, protocol = (record.get("identities") or {}).get(one.field), (record.get("protocols") or {}).get(one.field)
    near = [other for other in records if other["key"] == key or _is_dense_beside(other, record)]
    for other in sorted(near, key=lambda other: other["key"] != key):
        if (other.get("protocols") or {}).get(one.field) == protocol and other.get(one.field) is not None:
            return other[one.field]
    measured = store.measured(key).get(identity) if key and identity else None
    return measured["values"].get(one.field.partition("[")[0]) if measured else None


def _is_dense_beside(other: Record, record: Record) -> bool:
    """Whether a record without a base_key, of an older version, has this dense model beside it."""
    same = all(other.get(name) == record.get(name) for name in ("model", "baseline", "dtype", "weights"))
    return not record.get("base_key") and not other.get("stages") and same


def times(factor: int | float) -> str:
    """A factor in words: three digits, and no power of ten."""
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _not_as_asked(record: Record) -> list[Caution]:
    found = []
    for stage in record.get("stages") or []:
        fields, notes = stage.get("fields") or {}, stage.get("notes") or {}
        for words, asked, achieved in (*_ratio(stage, fields, notes), *_bits(fields, notes)):
            text = f"{stage['name']}: {words} {asked:g} requested, {achieved:.4g} achieved"
            found.append(_of(record, "Achieved is not what was requested", text))
    return found


def _ratio(
    stage: dict[str, Any], fields: dict[str, Any], notes: dict[str, Any]
) -> list[tuple[str, int | float, int | float]]:
    """Requested and achieved ratio where they differ. A ratio of what is left says nothing of the whole weight."""
    asked = fields.get("ratio")
    if not is_number(asked) or fields.get("relative_to") == "remaining":
        return []
    parts = [
        one for one in notes.get("details") or [] if is_number(one.get("before")) and is_number(one.get("removed"))
    ]
    if parts:
        achieved = sum(one["removed"] for one in parts) / sum(one["before"] for one in parts)
    elif notes.get("removed_parameters") or not stage.get("zeros"):  # nothing that is counted in zeros
        return []
    else:
        achieved = stage.get("sparsity")
    is_off = is_number(achieved) and abs(achieved - asked) > RATIO_TOLERANCE
    return [("ratio", asked, achieved)] if is_off else []


def _bits(fields: dict[str, Any], notes: dict[str, Any]) -> list[tuple[str, int | float, int | float]]:
    """Requested and stored bits where scales, zero points and tables add more than BITS_TOLERANCE."""
    asked, stored = fields.get("bits"), notes.get("bits_per_weight")
    is_off = is_number(asked) and asked > 0 and is_number(stored) and abs(stored - asked) > BITS_TOLERANCE * asked
    return [("bits per weight", asked, stored)] if is_off else []


def _several_protocols(records: Sequence[Record]) -> list[Caution]:
    found = []
    for one in in_group(records, "quality"):
        known = {protocol for record in records if (protocol := (record.get("protocols") or {}).get(one.field))}
        if len(known) > 1:
            text = f"{one.title} was measured by {len(known)} protocols; their values must not be compared"
            found.append(Caution("Mixed protocols", text))
    return found
