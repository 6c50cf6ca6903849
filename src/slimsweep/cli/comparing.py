"""Records that `slim compare` and `slim table --against base` pair, and what they print."""

from collections.abc import Sequence
from pathlib import Path

import typer

from slimsweep.errors import StoreError
from slimsweep.records.comparison import comparison, pairs
from slimsweep.records.paired_table import (
    Comparison,
    Rules,
    against_base,
    compared,
    plain,
    refuse_other_protocols,
    table_of,
)
from slimsweep.records.points import AXES, Record, label
from slimsweep.records.store import Store
from slimsweep.records.table import layout, render

DATA = ("csv", "json")
"""Formats that carry every field."""


def chosen(store: Store, name: str) -> tuple[list[Record], bool]:
    """Records of a sweep, or the one whose key begins with `name`; and whether it is that one.

    Raises:
        StoreError: neither is there.
    """
    if name in store.sweep_names():
        records = store.sweep_records(name)
        if missing := len(store.sweep_jobs(name)) - len(records):
            typer.echo(f"{name}: {missing} jobs have no record yet; see: slim status {name}", err=True)
        return records, False
    is_key = name and set(name) <= set("0123456789abcdef")
    return ([store.find(name)], True) if is_key else (store.sweep_records(name), False)


def compare(stores: tuple[Store, Store], names: tuple[str, str], rules: Rules, format: str) -> str:
    """The text of `slim compare`: the points of two sweeps, or two records, then their items where both keep them.

    Raises:
        StoreError: there is no common point, or a quality of two single records has two protocols.
    """
    (first, is_one), (second, is_other) = (chosen(*both) for both in zip(stores, names, strict=True))
    if is_one and is_other:  # two records are a pair, whatever their points are
        refuse_other_protocols(first[0], second[0])
        rows, lost = pairs([first[0]], [second[0] | {name: first[0].get(name) for name in AXES}])[0], ([], [])
    else:
        rows, *lost = pairs(first, second)
    for name, records in zip(names, lost, strict=True):
        if records:
            points = ", ".join(label(record) for record in records[:8])
            more = f" and {len(records) - 8} more" if len(records) > 8 else ""
            typer.echo(f"only in {name}: {points}{more}", err=True)
    if not rows:
        raise StoreError(f"{names[0]} and {names[1]} have no point in common (model, technique, pattern, ratio, seed)")
    titles = (_title(names[0], first, is_one), _title(names[1], second, is_other))
    by_key = [{record["key"]: record for record in records} for records in (first, second)]
    found = [one for row in rows for one in _pair(stores, by_key[0][row["key_a"]], by_key[1][row["key_b"]])]
    if format in DATA:
        return render(_with_items(rows, found, rules), format)
    parts = [layout(comparison(rows, titles), format)]
    return "\n\n".join([*parts, *([layout(table_of(found, rules, titles), format)] if found else [])])


def _title(name: str, records: Sequence[Record], is_one: bool) -> str:
    return f"{name} ({label(records[0])})" if is_one else name


def _pair(stores: tuple[Store, Store], first: Record, second: Record) -> list[Comparison]:
    outcomes = [store.outcomes(record) for store, record in zip(stores, (first, second), strict=True)]
    return compared(first, second, *outcomes, ("quality", "cost"))


def _with_items(rows: Sequence[Record], found: Sequence[Comparison], rules: Rules) -> list[Record]:
    """Rows of points, each with its comparisons by items under `items`."""
    plains = plain(found, rules)
    return [
        row | {"items": [one for one in plains if (one["key_a"], one["key_b"]) == (row["key_a"], row["key_b"])]}
        for row in rows
    ]


def against(store: Store, records: Sequence[Record], rules: Rules, format: str) -> str:
    """The text of `slim table --against base`.

    Raises:
        StoreError: a base has no record, or nothing can be compared.
    """
    found, without = against_base(store, records)
    if format in DATA:
        return render(plain(found, rules), format)
    table = table_of(found, rules, ("the base of each record", "the record"))
    if without:
        names = ", ".join(label(record) for record in without)
        table.notes.append(f"not compared, for want of outcomes that the base has too: {names}")
    return layout(table, format)


def other_store(folder: Path | None, store: Store) -> Store:
    """The store of a folder of other outputs; the same one where none is given.

    Raises:
        StoreError: it holds no records.
    """
    if folder is None:
        return store
    other = Store(folder)
    if not other.records_dir.is_dir():
        raise StoreError(f"--against {folder}: it holds no records; give the outputs folder of other launches")
    return other
