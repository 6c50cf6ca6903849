"""Records as tables: Markdown to read, LaTeX to print, CSV and JSON with every field."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slimsweep.records.points import Record, distinctions

FORMATS = ("md", "csv", "json", "latex")

SHOWN_KEY = 8
"""Characters of a key in a table; enough for `slim show`."""

MEBI, MILLION = 2**20, 1e6


@dataclass
class Table:
    """Cells below headings, words left and numbers right, and what must be said beside them."""

    headings: list[str] = field(default_factory=list)
    columns: list[list[str]] = field(default_factory=list)
    are_words: list[bool] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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

    md and latex show the columns one compares by; csv and json carry every field in base units.
    """
    if format == "json":
        return json.dumps(list(records), indent=1)
    if format == "csv":
        return as_csv(records)
    return layout(summary(records), format)


def layout(table: Table, format: str) -> str:
    """A table as md or latex."""
    return markdown(table) if format == "md" else latex(table)


def summary(records: Sequence[Record]) -> Table:
    """The columns one compares by. What all records share stands in a note instead of a column."""
    table, shared = Table(), []
    if not records:
        return table
    table.add("key", [record["key"][:SHOWN_KEY] if "key" in record else "" for record in records], True)
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
    for name in quality_fields(records):
        table.add(name.replace("_", " ", 1), _quality(records, name, table.notes))
    shared += _add_costs(table, records)
    table.notes.insert(0, f"every row: {', '.join(shared)}")
    if any("± " in cell for column in table.columns for cell in column):
        averaged = any("n" in record for record in records)
        table.notes.append("±: sample standard deviation over n seeds" if averaged else "±: standard error")
    return table


def _add_costs(table: Table, records: Sequence[Record]) -> list[str]:
    """Sizes in memory, in a file and in a bitmap format, work and time; returns those equal in every row."""
    shared = []
    for heading, name, divisor, form in (
        ("weights MiB", "weight_bytes", MEBI, "{:.1f}"),
        ("file MiB", "checkpoint_bytes", MEBI, "{:.1f}"),
        ("bits/weight", "bits_per_weight", 1, "{:.2f}"),
        ("bitmap MiB", "bitmap_bytes", MEBI, "{:.1f}"),
        ("parameters M", "parameters", MILLION, "{:.2f}"),
        ("nonzero M", "nonzero_parameters", MILLION, "{:.2f}"),
        ("GMACs nonzero", "gmacs_nonzero", 1, "{:.3f}"),
        ("peak MiB", "peak_memory_bytes", MEBI, "{:.0f}"),
        ("tokens/s", "decode_tokens_per_second", 1, "{:.1f}"),
        ("prefill times as fast", "speedup_prefill", 1, "{:.2f}"),
        ("decode times as fast", "speedup_decode", 1, "{:.2f}"),
        ("compress s", "compress_seconds", 1, "{:.1f}"),
    ):
        cells = [number_text(record, name, form, divisor) for record in records]
        if len(set(cells)) == 1 and cells[0] and len(records) > 1:
            shared.append(f"{heading} {cells[0]}")
        else:
            table.add(heading, cells)
    return shared


def quality_fields(records: Sequence[Record]) -> list[str]:
    """The perplexity and accuracy fields of the records, in order of their names, perplexity first."""
    names = dict.fromkeys(name for record in records for name in record)
    shown = [name for name in names if name.startswith(("perplexity_", "accuracy_"))]
    companions = [name for name in shown if name.startswith("accuracy_stderr_") or name.endswith("_deviation")]
    return sorted(set(shown) - set(companions), key=lambda name: (name.startswith("accuracy_"), name))


def _quality(records: Sequence[Record], name: str, notes: list[str]) -> list[str]:
    """One quality field as cells. Where protocols differ, each value is marked with its own."""
    protocols = [record.get("protocols", {}).get(name) for record in records]
    known = list(dict.fromkeys(protocol for protocol in protocols if protocol))
    marks = {protocol: f" [{_letter(place)}]" for place, protocol in enumerate(known)}
    if len(known) > 1:
        notes.append(f"{name}: measured by {len(known)} protocols, whose values must not be compared")
    for protocol in known:
        notes.append(f"{name}{marks[protocol] if len(known) > 1 else ''}: {protocol}")
    cells = []
    for record, protocol in zip(records, protocols, strict=True):
        value, reason = record.get(name), record.get("reasons", {}).get(name)
        text = "" if value is None else quality_text(name, value) + _uncertainty(record, name)
        cells.append(text + marks[protocol] if text and len(known) > 1 else text)
        if value is None and protocol and reason:
            notes.append(f"{name} of {record['key'][:SHOWN_KEY]}: {reason}")
    return cells


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else str(place)


def quality_text(name: str, value: int | float) -> str:
    """An accuracy with three decimals, a perplexity with about four digits."""
    if name.startswith("accuracy_"):
        return f"{value:.3f}"
    for limit, form in ((100, "{:.2f}"), (1000, "{:.1f}"), (MILLION, "{:.0f}")):
        if value < limit:
            return form.format(value)
    return f"{value:.3g}"


def _uncertainty(record: Record, name: str) -> str:
    """` ± x`: deviation over seeds where records were averaged, else an accuracy's standard error."""
    if f"{name}_deviation" in record:
        deviation = record[f"{name}_deviation"]
    else:
        deviation = record.get(name.replace("accuracy_", "accuracy_stderr_", 1)) if "accuracy_" in name else None
    return "" if deviation is None else f" ± {deviation:.3f}" if "accuracy_" in name else f" ± {deviation:.2g}"


def number_text(record: Record, name: str, form: str, divisor: int | float = 1) -> str:
    """A field in a unit, or nothing where it is null."""
    value = record.get(name)
    return "" if value is None else form.format(value if divisor == 1 else value / divisor)


def markdown(table: Table) -> str:
    """A Markdown table with aligned columns, its notes below."""
    if not table.columns:
        return "no records"
    columns = [
        [heading, *(cell.replace("|", "\\|") for cell in cells)]
        for heading, cells in zip(table.headings, table.columns, strict=True)
    ]
    widths = [max(3, *map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(row, widths, table.are_words, strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rule = [
        "-" * width if word else "-" * (width - 1) + ":" for width, word in zip(widths, table.are_words, strict=True)
    ]
    lines.insert(1, f"| {' | '.join(rule)} |")
    notes = [f"- {note}" for note in dict.fromkeys(table.notes)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def latex(table: Table) -> str:
    """A `tabular` with booktabs rules; its notes stand as comments above."""
    alignment = "".join("l" if is_word else "r" for is_word in table.are_words)
    lines = [f"% {note}" for note in dict.fromkeys(table.notes)]
    lines += [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule"]
    lines += [" & ".join(map(_latex_text, table.headings)) + r" \\", "\\midrule"]
    lines += [" & ".join(map(_latex_text, row)) + r" \\" for row in table.rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


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
