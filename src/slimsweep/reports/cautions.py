"""Warnings of a report: results that overflowed or lie far off, requests that were not met, jobs without a record."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimsweep.checks import is_number
from slimsweep.records.divergence import TIMES_DENSE, diverged_losses, far_perplexities, lost
from slimsweep.records.points import Record, titles
from slimsweep.records.quantities import in_group
from slimsweep.records.store import JobStatus, Store

RATIO_TOLERANCE = 0.01
"""Largest distance of an achieved ratio from the requested one. Counts are rounded down in each row or layer."""
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
    """Qualities that are not finite, and losses of training that diverged."""
    texts = [
        f"{one.title} has no value: {reason}"
        for one in in_group([record], "quality")
        if (reason := lost(record, one.field))
    ]
    for loss in diverged_losses(record):
        ending = "is not finite at its end" if loss.end is None else f"rose from {loss.start:.4g} to {loss.end:.4g}"
        texts.append(f"the loss of {loss.stage} {ending}")
    return [_of(record, "Divergences", text) for text in texts]


def _of(record: Record, kind: str, text: str) -> Caution:
    return Caution(kind, text, (record["key"],))


def _far_off(store: Store, record: Record, records: Sequence[Record]) -> list[Caution]:
    """Perplexities far above that of the base, measured by the same protocol."""
    found = []
    for far in far_perplexities(store, record, records):
        one, factor = far.quantity, times(far.value / far.dense)
        text = f"{one.title} {one.text(far.value)} is {factor} times that of the dense model ({one.text(far.dense)})"
        found.append(_of(record, f"Perplexity over {TIMES_DENSE:g} times dense", text))
    return found


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
