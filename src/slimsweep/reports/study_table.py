"""The table of a sweep as its study prints it: names of rows, columns, and what differs from the publication.

The section `table` of the sweep's file states it as data:

    table:
      title: BERT on SST-2
      differs: ["MiniLM stands for BERT base"]       # footnotes: what differs from the publication
      columns: [parameters, weight_bytes, accuracy_*]  # fields in order; `*` stands for each that was measured
      kept: accuracy_*                               # last column: their mean, divided by that of the base
      rows:                                          # filters of records (reports/selection.py) by the study's names
        - {name: student, where: {technique: finetune+distill}}

Records that no row names follow under their technique. Rows without a record stay visible as not run.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from slimsweep.errors import StoreError
from slimsweep.paths import config_root
from slimsweep.records.points import Record, label
from slimsweep.records.quantities import quantities_of
from slimsweep.records.table import Table, quality_cells
from slimsweep.reports import selection

NOT_RUN = "not run"
WORDS = {"title", "differs", "columns", "kept", "rows"}


@dataclass(frozen=True)
class Study:
    """Section `table` of a sweep's file."""

    title: str = ""
    differs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Fields of the columns in their order, `*` allowed; empty: every quality."""
    kept: str = ""
    """Fields whose mean, divided by that of the base, is the last column; empty: there is none."""
    rows: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Name and filter of each row, in order."""


@dataclass
class _Row:
    name: str
    record: Record = field(default_factory=dict)
    """Empty where nothing was run."""


def of_sweep(name: str, folder: Path | None = None) -> Study | None:
    """The study of a sweep, or of the file that its name begins with (`zero_shot_small`); None where it has none.

    Raises:
        StoreError: the section is incomplete or misspelt.
    """
    folder = folder or config_root() / "sweeps"
    stems = [file.stem for file in folder.glob("*.yaml") if name == file.stem or name.startswith(f"{file.stem}_")]
    if not stems:
        return None
    file = folder / f"{max(stems, key=len)}.yaml"
    section = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("table")
    if section is None:
        return None
    if faults := _faults(section):
        raise StoreError(f"{file}, section table: {'; '.join(faults)}")
    return Study(
        title=section.get("title", ""),
        differs=tuple(section.get("differs", ())),
        columns=tuple(section.get("columns", ())),
        kept=section.get("kept", ""),
        rows=tuple((row["name"], row["where"]) for row in section.get("rows", ())),
    )


def _faults(section: Mapping[str, Any]) -> list[str]:
    """Faults of a section: unknown words, rows without a name or a filter, lists that are none."""
    allowed = ", ".join(sorted(WORDS))
    faults = [f"unknown word {word!r}; give {allowed}" for word in sorted(set(section) - WORDS)]
    for word in ("differs", "columns", "rows"):
        if not isinstance(section.get(word, []), list):
            faults.append(f"{word} is no list")
    for row in section.get("rows", []) if isinstance(section.get("rows", []), list) else []:
        if not isinstance(row, dict) or set(row) != {"name", "where"} or not isinstance(row["where"], dict):
            faults.append(f"a row is {{name: ..., where: {{...}}}}, and not {row}")
    return faults


def table(study: Study, records: Sequence[Record]) -> Table:
    """Records in the rows and columns of a study, its differences from the publication as footnotes."""
    rows = _rows(study, records)
    shown = Table(title=study.title, footnotes=[*study.differs, *_measured_with(records)])
    shown.add("", [row.name for row in rows], True)
    models = [row.record.get("model", "") for row in rows]
    if len({model for model in models if model}) > 1:
        shown.add("model", models, True)
    if len({row.record["seed"] for row in rows if row.record.get("seed") is not None}) > 1:
        shown.add("seed", [_seed(row.record) for row in rows])
    quantities = quantities_of(records)
    for pattern in study.columns or tuple(name for name, quantity in quantities.items() if quantity.group == "quality"):
        fields = [name for name in quantities if fnmatchcase(name, pattern)]
        measured = [name for name in fields if "stderr" not in name or "stderr" in pattern]
        for name in measured:
            shown.add(
                quantities[name].title, quality_cells([row.record for row in rows], quantities[name], shown.notes)
            )
        if not measured:
            shown.notes.append(f"no record measured {pattern}")
    if study.kept:
        shown.add("kept", [_kept_text(row.record, study.kept, records) for row in rows])
        shown.notes.append(f"kept: mean of {study.kept.replace('_', ' ')}, divided by that of the base")
    missing = [row.name for row in rows if not row.record]
    if missing:
        shown.notes.append(f"{NOT_RUN}: {', '.join(missing)}")
    return shown


def _seed(record: Record) -> str:
    return "" if record.get("seed") is None else str(record["seed"])


def _measured_with(records: Sequence[Record]) -> list[str]:
    """Footnote on the models and the hardware of the records: `Measured here: tiny, float32, cpu, 2 threads.`"""
    words: list[str] = []
    for name, form in (("model", "{}"), ("dtype", "{}"), ("device", "{}"), ("threads", "{} threads")):
        values = dict.fromkeys(record[name] for record in records if record.get(name) is not None)
        words += [form.format(" and ".join(map(str, values)))] if values else []
    return [f"Measured here: {', '.join(words)}."] if words else []


def _rows(study: Study, records: Sequence[Record]) -> list[_Row]:
    """Rows in the order of the study, then the records that it does not name."""
    rows, named = [], set()
    for name, where in study.rows:
        found = selection.matching(records, where)
        rows += [_Row(name, record) for record in found] or [_Row(name)]
        named |= {id(record) for record in found}
    return rows + [_Row(label(record), record) for record in records if id(record) not in named]


def _kept_text(record: Record, pattern: str, records: Sequence[Record]) -> str:
    kept = mean_relative_to_base(record, pattern, records)
    return "" if kept is None else f"{kept:.3f}"


def mean_relative_to_base(record: Record, pattern: str, records: Sequence[Record]) -> int | float | None:
    """Mean of the qualities that fit a pattern, divided by the mean of the same qualities of the record's base.

    None where the base is not among the records, or has none of them by the same protocols.
    """
    bases = [other for other in records if other.get("key") == record.get("base_key")]
    if not record or not bases:
        return None
    fields = [
        name
        for name, quantity in quantities_of([record]).items()
        if quantity.group == "quality"
        and fnmatchcase(name, pattern)
        and record.get(name) is not None
        and bases[0].get(name) is not None
        and selection.protocol(record, name) == selection.protocol(bases[0], name)
    ]
    base_mean = statistics.fmean(bases[0][name] for name in fields) if fields else 0
    return statistics.fmean(record[name] for name in fields) / base_mean if base_mean else None
