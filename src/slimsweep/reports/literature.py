"""Published values beside ours: what agrees, what deviates, and what nobody has run here yet.

The values stand in `records/literature.yaml`, in groups of one source:

    - source: where the values stand
      status: read          # read: seen there; computed: follows from shapes alone; recalled: from memory
      tolerance: 0.02       # largest relative difference that still agrees
      protocol: [ctx=2048]  # parts that the protocol id of ours must have
      protocols:            # the same for one field, beside those above
        perplexity_c4: [windows=256]
      where: {...}          # filter of records (reports/selection.py) that all rows share
      rows:
        - {where: {technique: dense}, values: {perplexity_wikitext2: 5.12}}

A value that was only recalled is shown, and never called a deviation.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slimsweep.checks import choice_faults, is_number, number_faults
from slimsweep.errors import StoreError
from slimsweep.paths import config_root
from slimsweep.records.points import Record
from slimsweep.records.quantities import quantity
from slimsweep.records.table import Table
from slimsweep.reports import selection

STATUSES = ("read", "computed", "recalled")
AGREES, DEVIATES, NOT_RUN, NO_GATE = "agrees", "DEVIATES", "not run", "recalled, no gate"
GROUP = {"source", "status", "tolerance", "protocol", "protocols", "where", "note", "rows"}
ROW = {"where", "values", "tolerance", "note"}


@dataclass(frozen=True)
class Published:
    """One published value, and the records of ours that it speaks of."""

    source: str
    status: str
    """One of STATUSES."""
    tolerance: int | float
    """Largest relative difference between ours and the published value that still agrees."""
    where: dict[str, Any]
    field: str
    value: int | float
    protocol: tuple[str, ...] = ()
    """Parts that the protocol id of our value must have."""
    note: str = ""
    """Difference between the publication and a run here, in words."""


@dataclass(frozen=True)
class Comparison:
    """A published value beside ours of one protocol."""

    published: Published
    ours: int | float | None
    """Mean over the records that fit and share the protocol id, seeds and all; None where nothing was run."""
    count: int
    """Number of records that fit."""
    has_other_protocol: bool = False
    """Whether ours was measured, but by another protocol."""
    protocol: str | None = None
    """Protocol id of ours; None where nothing was run, or the field has none."""
    distinction: str = ""
    """Parts of the protocol id that not every protocol of ours for this value has; empty where there is only one."""

    @property
    def deviation(self) -> int | float | None:
        """Relative difference, ours less published; None where nothing was run."""
        return None if self.ours is None else self.ours / self.published.value - 1

    @property
    def verdict(self) -> str:
        if self.deviation is None:
            return NOT_RUN + (" by this protocol" if self.has_other_protocol else "")
        if self.published.status == "recalled":
            return NO_GATE
        return AGREES if abs(self.deviation) <= self.published.tolerance else DEVIATES


def read(file: Path | None = None) -> list[Published]:
    """The published values, in the order of the file.

    Raises:
        StoreError: entries that are incomplete or misspelt, all at once.
    """
    file = file or config_root() / "records" / "literature.yaml"
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))
    faults = [fault for number, group in enumerate(groups, 1) for fault in _faults(number, group)]
    if faults:
        raise StoreError(f"{file}: {'; '.join(faults)}")
    return [
        Published(
            source=group["source"],
            status=group["status"],
            tolerance=row.get("tolerance", group["tolerance"]),
            where=group.get("where", {}) | row["where"],
            field=field,
            value=value,
            protocol=(*group.get("protocol", ()), *group.get("protocols", {}).get(field, ())),
            note=" ".join(text for text in (group.get("note", ""), row.get("note", "")) if text),
        )
        for group in groups
        for row in group["rows"]
        for field, value in row["values"].items()
    ]


def _faults(number: int, group: Mapping[str, Any]) -> list[str]:
    """Faults of one group: missing and unknown words, an unknown status, values that are no numbers."""
    place = f"group {number} ({group.get('source', 'no source')})"
    faults = [f"{place} has no {name}" for name in ("source", "status", "tolerance", "rows") if name not in group]
    faults += [f"{place} has the unknown word {name!r}: give {', '.join(sorted(GROUP))}" for name in set(group) - GROUP]
    for name, parts in (group.get("protocols") or {}).items():
        if not any(name in (row.get("values") or {}) for row in group.get("rows", [])):
            faults.append(f"protocols of {place} name {name}, of which no row has a value")
        if not isinstance(parts, list):
            faults.append(f"protocols of {place} give {name} no list of parts: {parts!r}")
    faults += choice_faults(f"status of {place}", [group.get("status")], STATUSES)
    faults += number_faults(f"tolerance of {place}", group.get("tolerance"), "[0, inf)")
    for row in group.get("rows", []):
        missing = [name for name in ("where", "values") if not row.get(name)]
        faults += [f"a row of {place} has no {name}: {row}" for name in missing]
        faults += [f"a row of {place} has the unknown word {name!r}" for name in set(row) - ROW]
        values = (row.get("values") or {}).items()
        faults += [f"{name}={value!r} of {place} is no number" for name, value in values if not is_number(value)]
    return faults


def compare(published: Iterable[Published], records: Iterable[Record]) -> list[Comparison]:
    """Each published value beside the records that it speaks of, once for each protocol that they were measured by."""
    records = selection.meaningful(records)
    comparisons = []
    for value in published:
        measured = [record for record in selection.matching(records, value.where) if is_number(record.get(value.field))]
        fitting = selection.by_protocol(measured, value.field, value.protocol)
        comparisons += _by_protocol(value, fitting) or [Comparison(value, None, 0, bool(measured))]
    return comparisons


def _by_protocol(published: Published, records: Iterable[Record]) -> list[Comparison]:
    """A comparison for each protocol id of some records: means over several would compare with nothing."""
    values: dict[str | None, list[int | float]] = {}
    for record in records:
        values.setdefault(selection.protocol(record, published.field), []).append(record[published.field])
    parts = {protocol: (protocol or "").split(":") for protocol in values}
    shared = set.intersection(*map(set, parts.values())) if parts else set()
    return [
        Comparison(
            published,
            statistics.fmean(ours),
            len(ours),
            protocol=protocol,
            distinction=":".join(part for part in parts[protocol] if part not in shared),
        )
        for protocol, ours in values.items()
    ]


def rows(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Comparisons as flat rows in base units, for csv and json."""
    return [
        {
            "model": _model(comparison.published),
            "where": selection.text(comparison.published.where),
            "field": comparison.published.field,
            "protocol": " ".join(comparison.published.protocol),
            "our_protocol": comparison.protocol,
            "published": comparison.published.value,
            "ours": comparison.ours,
            "records": comparison.count,
            "deviation": comparison.deviation,
            "tolerance": comparison.published.tolerance,
            "verdict": comparison.verdict,
            "status": comparison.published.status,
            "source": comparison.published.source,
            "note": comparison.published.note,
        }
        for comparison in comparisons
    ]


def table(comparisons: Sequence[Comparison]) -> Table:
    """Published values, ours, and whether they agree. Sources and differences stand in notes."""
    shown = Table()
    sources = list(dict.fromkeys(comparison.published.source for comparison in comparisons))
    shown.add("model", [_model(comparison.published) for comparison in comparisons], True)
    shown.add("technique", [selection.text(comparison.published.where) for comparison in comparisons], True)
    shown.add("quantity", [_quantity_text(comparison) for comparison in comparisons], True)
    shown.add(
        "published", [_number(comparison.published.field, comparison.published.value) for comparison in comparisons]
    )
    shown.add("ours", [_number(comparison.published.field, comparison.ours) for comparison in comparisons])
    shown.add("deviation", [_percent(comparison.deviation) for comparison in comparisons])
    shown.add("allowed", [f"{100 * comparison.published.tolerance:g} %" for comparison in comparisons])
    shown.add("verdict", [comparison.verdict for comparison in comparisons], True)
    shown.add("status", [comparison.published.status for comparison in comparisons], True)
    shown.add("source", [f"[{sources.index(comparison.published.source) + 1}]" for comparison in comparisons], True)
    counts = {
        verdict: sum(comparison.verdict.startswith(verdict) for comparison in comparisons) for verdict in _VERDICTS
    }
    shown.notes.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    shown.footnotes += [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    notes = [
        (comparison.published.source, comparison.published.note)
        for comparison in comparisons
        if comparison.published.note
    ]
    for source, note in dict.fromkeys(notes):
        shown.notes.append(f"[{sources.index(source) + 1}] {note}")
    return shown


_VERDICTS = (AGREES, DEVIATES, NO_GATE, NOT_RUN)


def _model(published: Published) -> str:
    """The models of a value in words."""
    models = published.where.get("model", "")
    return " or ".join(models) if isinstance(models, list) else str(models)


def _quantity_text(comparison: Comparison) -> str:
    """The quantity, the protocol that it needs, and what tells ours from ours by another protocol."""
    published = comparison.published
    is_count = published.field.endswith("parameters")
    title = published.field.replace("_", " ") if is_count else quantity(published.field).title
    ours = [f"(ours: {comparison.distinction})"] if comparison.distinction else []
    return " ".join([title, *published.protocol, *ours])


def _number(field: str, value: int | float | None) -> str:
    """A value in the unit of its column; a count of parameters whole, since it must agree to the last digit."""
    if value is None:
        return ""
    return f"{value:,.0f}" if field.endswith("parameters") else quantity(field).text(value)


def _percent(deviation: int | float | None) -> str:
    return "" if deviation is None else f"{100 * deviation:+.2f} %"
