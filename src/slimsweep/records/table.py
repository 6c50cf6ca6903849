"""Records as tables: Markdown to read, LaTeX to print, CSV and JSON with every field."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.exported import origin_key
from slimsweep.records.points import DEVIATION, Record, distinctions
from slimsweep.records.quantities import in_group

FORMATS = ("md", "csv", "json", "latex", "github")

SHOWN_KEY = 8
"""Characters of a key in a table; enough for `slim show`."""


@dataclass
class Table:
    """Cells below headings, words left and numbers right, and what must be said beside them."""

    headings: list[str] = field(default_factory=list)
    columns: list[list[str]] = field(default_factory=list)
    are_words: list[bool] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    title: str = ""
    footnotes: list[str] = field(default_factory=list)
    """Notes that a reader must see, such as how a study differs from its publication: printed in LaTeX too."""

    def add(self, heading: str, cells: Sequence[str], is_word: bool = False) -> None:
        """Append a column, unless it says nothing."""
        if any(cell for cell in cells):
            self.headings.append(heading)
            self.columns.append([cell or "-" for cell in cells])
            self.are_words.append(is_word)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells row by row."""
        return list(zip(*self.columns, strict=True))


def render(records: Sequence[Record], format: str = "md") -> str:
    """Records in one of FORMATS, without a last line break.

    md, latex and github show the columns one compares by; csv and json carry every field in base units.
    """
    if format == "json":
        return json.dumps(list(records), indent=1)
    if format == "csv":
        return as_csv(records)
    return layout(summary(records), format)


def layout(table: Table, format: str) -> str:
    """A table as md, latex, or github: Markdown that is short enough for an issue, its notes folded away."""
    return {"md": markdown, "latex": latex, "github": github}[format](table)


def summary(records: Sequence[Record]) -> Table:
    """The columns one compares by. What all records share stands in a note instead of a column."""
    table, shared = Table(), []
    if not records:
        return table
    table.add("key", [origin_key(record)[:SHOWN_KEY] if "key" in record else "" for record in records], True)
    for name in ("model", "weights", "baseline", "dtype", "device"):
        values = [record.get(name) for record in records]
        if len(set(values)) > 1:
            table.add(name, [value or "" for value in values], True)
        elif values[0]:
            shared.append(f"{name} {values[0]}")
    table.add("technique", [record["technique"] for record in records], True)
    table.add("settings", distinctions(records), True)
    patterns = [record.get("pattern") for record in records]
    if set(patterns) - {None, "unstructured"}:
        table.add("pattern", [pattern or "" for pattern in patterns], True)
    table.add("ratio", [number_text(record, "ratio", "{:g}") for record in records])
    if len({record.get("seed") for record in records} - {None}) > 1:
        table.add("seed", [number_text(record, "seed", "{:d}") for record in records])
    table.add("n", [number_text(record, "n", "{:d}") for record in records])
    table.add("sparsity", [number_text(record, "sparsity", "{:.4f}") for record in records])
    for one in in_group(records, "quality"):
        table.add(one.title, quality_cells(records, one, table.notes))
    shared += _add_costs(table, records)
    table.notes.insert(0, f"every row: {', '.join(shared)}")
    if any("± " in cell for column in table.columns for cell in column):
        averaged = any("n" in record for record in records)
        table.notes.append("±: sample standard deviation over n seeds" if averaged else "±: standard error")
    return table


def _add_costs(table: Table, records: Sequence[Record]) -> list[str]:
    """Sizes, work and times, a column each; returns those equal in every row."""
    shared = []
    for one in in_group(records, "cost"):
        values = [record.get(one.field) for record in records]
        cells = ["" if value is None else one.text(value) for value in values]
        if len(set(cells)) == 1 and cells[0] and len(records) > 1:
            shared.append(f"{one.title} {cells[0]}")
        else:
            table.add(one.title, cells)
    return shared


def quality_cells(records: Sequence[Record], quantity: Quantity, notes: list[str]) -> list[str]:
    """One measured field as cells. Where protocols differ, each value is marked with its own, and notes say so."""
    name = quantity.field
    protocols = [(record.get("protocols") or {}).get(name) for record in records]
    known = list(dict.fromkeys(protocol for protocol in protocols if protocol))
    marks = {protocol: f" [{_letter(place)}]" for place, protocol in enumerate(known)}
    if len(known) > 1:
        notes.append(f"{name}: measured by {len(known)} protocols, whose values must not be compared")
    for protocol in known:
        notes.append(f"{name}{marks[protocol] if len(known) > 1 else ''}: {protocol}")
    cells = []
    for record, protocol in zip(records, protocols, strict=True):
        value, reason = record.get(name), (record.get("reasons") or {}).get(name)
        text = "" if value is None else quantity.text(value) + _uncertainty(record, quantity)
        cells.append(text + marks[protocol] if text and protocol and len(known) > 1 else text)
        if value is None and protocol and reason:
            notes.append(f"{name} of {record['key'][:SHOWN_KEY]}: {reason}")
    return cells


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else str(place)


def _uncertainty(record: Record, quantity: Quantity) -> str:
    """` ± x`: deviation over seeds where records were averaged, else the standard error where there is one."""
    over_seeds = quantity.field + DEVIATION
    deviation = record.get(over_seeds if over_seeds in record else quantity.error)
    return "" if deviation is None else f" ± {quantity.deviation_text(deviation)}"


def number_text(record: Record, name: str, form: str) -> str:
    """A field as text, or nothing where it is null."""
    value = record.get(name)
    return "" if value is None else form.format(value)


def _pipe_columns(table: Table) -> list[list[str]]:
    """Columns with their headings, bars in cells escaped."""
    return [
        [heading, *(cell.replace("|", "\\|") for cell in cells)]
        for heading, cells in zip(table.headings, table.columns, strict=True)
    ]


def markdown(table: Table) -> str:
    """A Markdown table with aligned columns, its footnotes and notes below."""
    if not table.columns:
        return "no records"
    columns = _pipe_columns(table)
    widths = [max(3, *map(len, column)) for column in columns]
    notes = [f"- {note}" for note in dict.fromkeys([*table.footnotes, *table.notes])]
    title = [f"**{table.title}**", ""] if table.title else []
    return "\n".join([*title, *_pipes(columns, widths, table.are_words), *([""] if notes else []), *notes])


def github(table: Table) -> str:
    """A Markdown table for an issue: no padding, footnotes below it, notes folded away."""
    if not table.columns:
        return "no records"
    columns = _pipe_columns(table)
    title = [f"**{table.title}**", ""] if table.title else []
    lines = [*title, *_pipes(columns, [0] * len(columns), table.are_words)]
    lines += ["", *(f"- {note}" for note in dict.fromkeys(table.footnotes))] if table.footnotes else []
    if table.notes:
        notes = [f"- {note}" for note in dict.fromkeys(table.notes)]
        lines += ["", "<details><summary>How it was measured</summary>", "", *notes, "", "</details>"]
    return "\n".join(lines)


def _pipes(columns: Sequence[Sequence[str]], widths: Sequence[int], are_words: Sequence[bool]) -> list[str]:
    """Lines of a table between pipes, headings first; words left and numbers right."""
    lines = []
    for row in zip(*columns, strict=True):
        cells = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(row, widths, are_words, strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rule = [
        "-" * max(width, 3) if word else "-" * max(width - 1, 2) + ":"
        for width, word in zip(widths, are_words, strict=True)
    ]
    return [lines[0], f"| {' | '.join(rule)} |", *lines[1:]]


def latex(table: Table) -> str:
    """A `tabular` with booktabs rules: its footnotes as last lines, its notes as comments above."""
    alignment = "".join("l" if is_word else "r" for is_word in table.are_words)
    lines = [f"% {note}" for note in dict.fromkeys([table.title, *table.notes]) if note]
    lines += [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule"]
    lines += [" & ".join(map(_latex_text, table.headings)) + r" \\", "\\midrule"]
    lines += [" & ".join(map(_latex_text, row)) + r" \\" for row in table.rows]
    below = f"\\multicolumn{{{len(table.headings)}}}{{p{{\\linewidth}}}}"
    feet = [f"{below}{{\\footnotesize {_latex_text(note)}}} \\\\" for note in dict.fromkeys(table.footnotes)]
    return "\n".join([*lines, "\\bottomrule", *feet, "\\end{tabular}"])


LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    | {character: f"\\{character}" for character in "&%$#_{}"}
)


def _latex_text(text: str) -> str:
    return "--" if text == "-" else text.translate(LATEX)


def as_csv(records: Sequence[Record]) -> str:
    """Every field of every record; nested ones (protocols, stages, config ...) as JSON in their cell."""
    names = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        writer.writerow([_plain(record.get(name)) for name in names])
    return text.getvalue().rstrip("\n")


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
