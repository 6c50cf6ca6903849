"""Two sweeps point by point."""

from collections.abc import Sequence

from slimsweep.checks import is_number
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.points import AXES, Record
from slimsweep.records.quantities import COMPRESS_SECONDS, in_group, quantities_of
from slimsweep.records.table import Table, number_text


def pairs(first: Sequence[Record], second: Sequence[Record]) -> tuple[list[Record], list[Record], list[Record]]:
    """Rows that join two lists of records at equal AXES, and the records of each that have no partner.

    A row holds the axes and, for each number, `<field>_a`, `<field>_b` and `<field>_change` = b - a.
    Where several records share a point (they differ in a knob that is no axis), every pair of them is a row.
    """
    others: dict[tuple, list[Record]] = {}
    for record in second:
        others.setdefault(_place(record), []).append(record)
    rows = [_join(record, other) for record in first for other in others.get(_place(record), [])]
    places = {_place(record) for record in first}
    return (
        rows,
        [record for record in first if _place(record) not in others],
        [record for record in second if _place(record) not in places],
    )


def _place(record: Record) -> tuple:
    return tuple(record.get(axis) for axis in AXES)


def _join(a: Record, b: Record) -> Record:
    row = {axis: a.get(axis) for axis in AXES} | {"key_a": a["key"], "key_b": b["key"]}
    for name in dict.fromkeys([*a, *b]):
        if name in AXES or not (is_number(a.get(name)) or is_number(b.get(name))):
            continue
        row |= {f"{name}_a": a.get(name), f"{name}_b": b.get(name)}
        both = is_number(a.get(name)) and is_number(b.get(name))
        row[f"{name}_change"] = b[name] - a[name] if both else None
    row["protocols_a"], row["protocols_b"] = a.get("protocols", {}), b.get("protocols", {})
    row["quantities"] = {one.field: one.plain() for one in quantities_of([a, b]).values()}
    return row


def comparison(rows: Sequence[Record], names: tuple[str, str]) -> Table:
    """Table of the rows that `pairs` joined: quality and time of sweep A, of sweep B, and B's change.

    The change of a quantity with a logarithmic axis is a percentage, any other a difference.
    """
    table = Table(notes=[f"A: {names[0]}", f"B: {names[1]}"])
    for name in ("model", "technique", "pattern"):
        if name == "technique" or len({row[name] for row in rows}) > 1:
            table.add(name, [row[name] or "" for row in rows], True)
    table.add("ratio", [number_text(row, "ratio", "{:g}") for row in rows])
    table.add("seed", [number_text(row, "seed", "{:d}") for row in rows])
    for one in [*in_group(rows, "quality"), COMPRESS_SECONDS]:
        name = one.field
        if not any(f"{name}_a" in row for row in rows):
            continue
        for side, letter in (("a", "A"), ("b", "B")):
            values = [row.get(f"{name}_{side}") for row in rows]
            table.add(f"{one.title} {letter}", ["-" if value is None else one.text(value) for value in values])
        table.add("change", [_change(row, one) for row in rows])
        for a, b in {(row["protocols_a"].get(name), row["protocols_b"].get(name)) for row in rows}:
            if a != b:
                table.notes.append(f"{name}: A by {a}, B by {b}; these must not be compared")
            elif a:
                table.notes.append(f"{name}: {a}")
    return table


def _change(row: Record, quantity: Quantity) -> str:
    before, after = row.get(f"{quantity.field}_a"), row.get(f"{quantity.field}_b")
    return "-" if None in (before, after) else quantity.change_text(before, after)
