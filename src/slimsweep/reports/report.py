"""Content of a report on sweeps, without its form: table, charts, warnings, layers and protocols of their records."""

import base64
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slimsweep.errors import FigureError, StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.points import Record, settings_of, titles
from slimsweep.records.portable import portable
from slimsweep.records.quantities import quantities_of
from slimsweep.records.store import JobStatus, Store
from slimsweep.records.table import SHOWN_KEY, Table, summary
from slimsweep.reports.cautions import Caution, cautions
from slimsweep.reports.charts import Axis, charts, costs
from slimsweep.reports.layer_errors import Measure, measures
from slimsweep.reports.noise import noise

HOVER_CELLS = 12
"""Cells of a record's row that its hover label shows."""


@dataclass(frozen=True)
class Job:
    """Details of one record."""

    key: str
    title: str
    facts: list[tuple[str, str]]
    """Name and value of what identifies the job: model, machine, dates."""
    values: list[tuple[str, str]]
    """Heading and text of every measured quantity, details among them."""
    settings: list[tuple[str, str]]
    nulls: list[tuple[str, str]]
    """Quantities without a value, and the reasons."""
    layers: list[Measure]


@dataclass(frozen=True)
class ProtocolNote:
    """Protocol of some quantities, and the number of records that have it."""

    protocol: str
    titles: list[str]
    records: int


@dataclass(frozen=True)
class Report:
    """All that a report says."""

    title: str
    sentences: list[str]
    """Numbers of jobs, models, dates and versions in words."""
    table: Table
    keys: list[str]
    """Key of each row of the table."""
    charts: list[dict[str, Any]]
    costs: list[Axis]
    cautions: list[Caution]
    jobs: list[Job]
    protocols: list[ProtocolNote]
    figures: dict[str, bytes] = field(default_factory=dict)
    """PNG files by name."""

    def grouped_cautions(self) -> dict[str, list[Caution]]:
        """Warnings by kind, in the order of their gravity."""
        groups: dict[str, list[Caution]] = {}
        for one in self.cautions:
            groups.setdefault(one.kind, []).append(one)
        return groups


def gather(store: Store, sweeps: Sequence[str], with_figures: bool = True) -> Report:
    """Content of a report on some sweeps; on all records where none is named. It names no folder of this machine.

    Raises:
        StoreError: a sweep is unknown, there is no record, or a file of outcomes is damaged.
    """
    records, jobs = _records(store, sweeps)
    if not records:
        raise StoreError(_no_records(store, sweeps, jobs))
    warnings = [*cautions(store, records, jobs), *noise(store, records)]
    records = portable(records)
    table, names = summary(records), titles(records)
    return Report(
        title=f"Sweep {', '.join(sweeps)}" if sweeps else "All records",
        sentences=_sentences(records, jobs),
        table=table,
        keys=[record["key"] for record in records],
        charts=charts(records, _hover(records, table)),
        costs=costs(records),
        cautions=[replace(one, text=portable(one.text)) for one in warnings],
        jobs=[_job(store, record, names[record["key"]]) for record in records],
        protocols=_protocols(records),
        figures=_figures(store, sweeps) if with_figures else {},
    )


def _records(store: Store, sweeps: Sequence[str]) -> tuple[list[Record], dict[str, list[JobStatus]]]:
    """Records of the named sweeps, each once, and the state of their jobs; every record where none is named."""
    jobs = {name: store.status(name) for name in sweeps}
    found = [record for name in sweeps for record in store.sweep_records(name)] if sweeps else store.records()
    return list({record["key"]: record for record in found}.values()), jobs


def _no_records(store: Store, sweeps: Sequence[str], jobs: dict[str, list[JobStatus]]) -> str:
    if not sweeps:
        return (
            f"{store.outputs_dir} holds no record, so there is nothing to report. Run: slimsweep +sweeps=unstructured"
        )
    counts = Counter(job.state for states in jobs.values() for job in states)
    states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no jobs"
    named = ", ".join(sweeps)
    return f"no job of {named} has a record ({states}), so there is nothing to report. See: slim status {sweeps[0]}"


def _sentences(records: Sequence[Record], jobs: dict[str, list[JobStatus]]) -> list[str]:
    """Facts of the whole report, a sentence each."""
    planned = sum(len(states) for states in jobs.values())
    count = f"{len(records)} record{'s' * (len(records) != 1)}"
    models = sorted({" ".join(filter(None, (record["model"], record.get("baseline")))) for record in records})
    techniques = dict.fromkeys(record["technique"] for record in records)
    found = [
        f"{count} of {planned} jobs." if planned else f"{count}.",
        f"Model{'s' * (len(models) != 1)}: {', '.join(models)}.",
        f"Techniques: {', '.join(techniques)}.",
    ]
    if days := sorted({record["created"][:10] for record in records if record.get("created")}):
        found.append(f"Measured on {' to '.join(dict.fromkeys((days[0], days[-1])))}.")
    machines = sorted({_machine(record) for record in records})
    versions = sorted({(record.get("versions") or {}).get("slimsweep") or "" for record in records} - {""})
    found.append(f"Machine: {'; '.join(machines)}.")
    return [*found, f"slimsweep {', '.join(versions)}."] if versions else found


def _machine(record: Record) -> str:
    threads = f", {record['threads']} thread{'s' * (record['threads'] != 1)}" if record.get("threads") else ""
    return f"{record.get('device') or 'unknown'}{threads}, {record.get('dtype') or 'unknown'}"


def _hover(records: Sequence[Record], table: Table) -> Any:
    """Function that gives the lines of a record's hover label: its row of the table, without what it lacks."""
    places, names = {record["key"]: place for place, record in enumerate(records)}, titles(records)

    def text(record: Record) -> str:
        row = table.rows[places[record["key"]]]
        cells = [f"{heading}: {cell}" for heading, cell in zip(table.headings, row, strict=True) if cell != "-"]
        shown = [cell for cell in cells if not cell.startswith(("technique:", "settings:", "ratio:"))]
        return "\n".join([names[record["key"]], *shown[:HOVER_CELLS]])

    return text


def _job(store: Store, record: Record, title: str) -> Job:
    quantities = list(quantities_of([record]).values())
    reasons = record.get("reasons") or {}
    names = ("model", "baseline", "dtype", "device", "threads", "created", "base_key", "git_commit")
    ratio = [("requested ratio", f"{record['ratio']:g}")] if record.get("ratio") is not None else []
    return Job(
        key=record["key"],
        title=title,
        facts=[
            ("key", record["key"]),
            *((name.replace("_", " "), str(record[name])) for name in names if record.get(name)),
        ],
        values=ratio
        + [(_heading(one), _value(record, one)) for one in quantities if record.get(one.field) is not None],
        settings=[(name, _setting(value)) for name, value in sorted(settings_of(record).items())],
        nulls=[(one.title, reasons[one.field]) for one in quantities if reasons.get(one.field)],
        layers=measures(record, store.layers(record["key"])),
    )


def _heading(one: Quantity) -> str:
    """Heading of a value with its unit, unless the heading of the table names one."""
    return one.title if one.heading or not one.unit else f"{one.title} ({one.unit})"


def _value(record: Record, one: Quantity) -> str:
    error = record.get(one.error) if one.error else None
    if one.divisor != 1 and not one.heading:  # no heading says in which unit a table would show it
        return f"{record[one.field]:,}"
    return one.text(record[one.field]) + (f" ± {one.deviation_text(error)}" if error is not None else "")


def _setting(value: Any) -> str:
    """A setting as it is typed: `null`, `true`, `q_proj, k_proj`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _protocols(records: Sequence[Record]) -> list[ProtocolNote]:
    """Every protocol of the records, with the quantities that it measured."""
    titles: dict[str, dict[str, None]] = {}
    counts: Counter[str] = Counter()
    quantities = quantities_of(records)
    for record in records:
        own = record.get("protocols") or {}
        for name, protocol in own.items():
            one = quantities.get(name)
            titles.setdefault(protocol, {})[one.title if one else name.replace("_", " ")] = None
        counts.update(set(own.values()))
    return [ProtocolNote(protocol, list(names), counts[protocol]) for protocol, names in titles.items()]


def _figures(store: Store, sweeps: Sequence[str]) -> dict[str, bytes]:
    """Figures that the records allow, as PNG; broken figures of other packages are left out."""
    from slimsweep.figures import render

    with tempfile.TemporaryDirectory() as folder:
        try:
            paths = render(store, sweeps=list(sweeps) or store.sweep_names(), folder=Path(folder))
        except FigureError as error:
            paths = error.drawn
        except StoreError:  # the records measured nothing that a figure shows
            paths = []
        return {path.stem: path.read_bytes() for path in paths if path.suffix == ".png"}


def as_address(png: bytes) -> str:
    """A PNG as a `data:` address, which needs no file and no network."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def short(key: str) -> str:
    """A key as tables show it."""
    return key[:SHOWN_KEY]
