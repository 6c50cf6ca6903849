"""A report as Markdown, for an issue or the appendix of a paper."""

import html
import re
from collections.abc import Sequence

from slimsweep.records.table import Table, github, markdown
from slimsweep.reports.report import Job, Report, short

LISTED = 30
"""Warnings of one kind that are listed; the rest are counted."""


def text(report: Report, figures: dict[str, str]) -> str:
    """The Markdown text; `figures` are the addresses of figures by name, relative to the file."""
    parts = [f"# {_escaped(report.title)}", " ".join(map(_escaped, report.sentences)), *_warnings(report)]
    parts += ["## Table", markdown(_escaped_table(report.table))]
    parts += _layers(report)
    if report.protocols:
        rows = Table()
        rows.add("quantities", [_escaped(", ".join(one.titles)) for one in report.protocols], True)
        rows.add("records", [str(one.records) for one in report.protocols])
        rows.add("protocol", [_code(one.protocol) for one in report.protocols], True)
        parts += ["## Protocols", "Values of two protocols must not be compared.", github(rows)]
    if figures:
        parts += ["## Figures", *(f"![{_escaped(name)}]({address})" for name, address in figures.items())]
    parts += ["## Jobs", *map(_job, report.jobs)]
    return "\n\n".join(parts) + "\n"


def _warnings(report: Report) -> list[str]:
    found = ["## Warnings"] if report.cautions else []
    for kind, cautions in report.grouped_cautions().items():
        lines = [
            f"- {_escaped(one.text)} {' '.join(_code(short(key)) for key in one.keys)}".rstrip()
            for one in cautions[:LISTED]
        ]
        more = [f"- and {len(cautions) - LISTED} more"] if len(cautions) > LISTED else []
        found.append("\n".join([f"**{_escaped(kind)}** ({len(cautions)})", "", *lines, *more]))
    return found


def _layers(report: Report) -> list[str]:
    """One row for each stage of each job: where the error enters."""
    rows = [(job, measure) for job in report.jobs for measure in job.layers]
    if not rows:
        return []
    table = Table()
    table.add("key", [short(job.key) for job, _ in rows], True)
    table.add("job", [_escaped(job.title) for job, _ in rows], True)
    table.add("stage", [_escaped(measure.stage) for _, measure in rows], True)
    table.add("measure", [_escaped(measure.words) for _, measure in rows], True)
    table.add("where", [_escaped(measure.sentence()) for _, measure in rows], True)
    return ["## Layers", github(table)]


def _job(job: Job) -> str:
    # Markdown is not read inside a tag of HTML, so the summary is escaped for HTML alone.
    lines = [f"<details><summary>{_unlinked(html.escape(job.title))} ({short(job.key)})</summary>", ""]
    for heading, pairs in (("Measured", job.values), ("Settings", job.settings), ("Not measured", job.nulls)):
        lines += _pairs(heading, pairs)
    return "\n".join([*lines, "", "</details>"])


def _pairs(heading: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    return (
        [f"- {heading}: " + "; ".join(f"{_escaped(name)} {_escaped(value)}" for name, value in pairs)] if pairs else []
    )


def _escaped_table(table: Table) -> Table:
    """The same table with texts that Markdown and HTML leave as they are."""
    columns = [[_escaped(cell) for cell in column] for column in table.columns]
    notes = [_escaped(note) for note in table.notes]
    return Table([_escaped(heading) for heading in table.headings], columns, table.are_words, notes, table.title)


def _escaped(text: str) -> str:
    """A text as one line without tags, links, emphasis, mentions or numbers of issues.

    Bars are left to the table, which escapes them.
    """
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _unlinked(re.sub(r"([\\`*_~\[\]])", r"\\\1", flat))


def _unlinked(text: str) -> str:
    """A text whose `#12` and `@name` an issue does not link.

    A backslash does not stop it, and neither does a reference such as `&#35;`: an empty comment parts sign and word.
    """
    return re.sub(r"(?<!&)([#@])(?=\w)", r"\1<!-- -->", text)


def _code(text: str) -> str:
    """A text as code; its own backticks, which would end it, become quotes."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
