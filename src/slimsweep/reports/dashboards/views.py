"""Views of a dashboard: runs of one model in some sweeps, panels that show them, and colours of the runs."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slimsweep.figures.series import DENSE
from slimsweep.figures.style import appearances
from slimsweep.records.points import Record
from slimsweep.records.portable import portable
from slimsweep.records.tracking.published import run_id
from slimsweep.reports.dashboards.panels import TECHNIQUE, Section, sections
from slimsweep.reports.report import Report

DENSE_COLOUR = "#000000"
MOST_CAUTIONS = 10
"""Warnings of one kind that a dashboard lists."""


@dataclass(frozen=True)
class View:
    """Panels on the runs of one model: lines that average over a technique must not mix models."""

    name: str
    model: str
    sweeps: tuple[str, ...]
    """Sweeps whose runs are shown; empty: every run."""
    sections: tuple[Section, ...]
    colours: dict[str, str]
    """Colour of each run by its id: one for each technique, as in the figures."""

    def plain(self) -> dict[str, Any]:
        """The view as plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Note:
    """A heading and sentences of a dashboard's report."""

    heading: str
    sentences: tuple[str, ...]


def views(records: Sequence[Record], sweeps: Sequence[str]) -> list[View]:
    """One view for each model, in the order of the first record of each."""
    by_model: dict[str, list[Record]] = {}
    for record in records:
        by_model.setdefault(portable(record["model"]), []).append(record)
    colours = _colours(records)
    return [
        View(
            name=plain_name(f"{title(sweeps)}, {model}"),
            model=model,
            sweeps=tuple(sweeps),
            sections=tuple(sections(members)),
            colours={run_id(record): colours[record[TECHNIQUE]] for record in members},
        )
        for model, members in by_model.items()
    ]


def title(sweeps: Sequence[str]) -> str:
    """Name of the dashboard of some sweeps; the same name means the same dashboard, which is then updated."""
    return plain_name(f"slimsweep {', '.join(sweeps) or 'all records'}")


def plain_name(name: str) -> str:
    """A name in the characters that W&B accepts for views: it refuses symbols, the plus sign among them."""
    return re.sub(r"[^\w\-. ,:/()]", "-", name)


def notes(report: Report) -> list[Note]:
    """Facts, protocols and warnings of a report on the same sweeps, as text beside the panels."""
    protocols = tuple(
        f"{', '.join(one.titles)}: {one.protocol} ({one.records} record{'s' * (one.records != 1)})"
        for one in report.protocols
    )
    found = [Note("Runs", tuple(report.sentences)), Note("Protocols", protocols)]
    for kind, members in report.grouped_cautions().items():
        rest = len(members) - MOST_CAUTIONS
        more = (f"{rest} more: see `slim report`.",) if rest > 0 else ()
        found.append(Note(kind, (*(one.text for one in members[:MOST_CAUTIONS]), *more)))
    return [note for note in found if note.sentences]


def _colours(records: Sequence[Record]) -> dict[str, str]:
    """Colour of each technique, as a figure of the same records has it; the dense model is black."""
    techniques = list(dict.fromkeys(record[TECHNIQUE] for record in records if record[TECHNIQUE] != DENSE))
    looks = appearances(techniques)
    return {name: look["color"] for name, look in zip(techniques, looks, strict=True)} | {DENSE: DENSE_COLOUR}
