"""Points, lines and Pareto fronts of the interactive charts of a report, as plain values for JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slimsweep.figures.series import DENSE, Panel, lines, panels, variants
from slimsweep.records.front import front
from slimsweep.records.points import Record
from slimsweep.records.quantities import in_group

Hover = Callable[[Record], str]
"""Text of a record for a hover label."""


@dataclass(frozen=True)
class Axis:
    """One choice of the horizontal axis of the Pareto chart."""

    field: str
    title: str
    divisor: int | float
    is_log: bool
    smaller_is_better: bool


def costs(records: Sequence[Record]) -> list[Axis]:
    """Costs that differ between records: each is an axis of the Pareto chart. A cost of no direction is left out."""
    found = []
    for one in in_group(records, "cost"):
        values = {record[one.field] for record in records if record.get(one.field) is not None}
        if len(values) > 1 and one.higher_is_better is not None:
            found.append(Axis(one.field, one.title, one.divisor, one.scale == "log", not one.higher_is_better))
    return found


def charts(records: Sequence[Record], hover: Hover) -> list[dict[str, Any]]:
    """A chart for each quality, model and protocol: values of two protocols never share an axis."""
    axes = costs(records)
    found = []
    every = panels(records, lambda one: one.group == "quality")
    for panel in sorted(every, key=lambda panel: panel.quantity.place):
        measured = [record for record in panel.records if record.get(panel.field) is not None]
        if measured:
            found.append(_chart(panel, measured, axes, hover))
    return found


def _chart(panel: Panel, measured: Sequence[Record], axes: Sequence[Axis], hover: Hover) -> dict[str, Any]:
    one = panel.quantity
    labels = {id(record): label for label, members in variants(measured).items() for record in members}
    values = [record[panel.field] / one.divisor for record in measured]
    return {
        "name": " · ".join([one.title, *panel.title.split("\n")]),
        "title": one.axis(),
        "protocol": panel.protocol,
        "isLog": one.scale == "log" and all(value > 0 for value in values),
        "better": {True: "higher", False: "lower", None: ""}[one.higher_is_better],
        "points": [
            {
                "key": record["key"],
                "line": labels[id(record)],
                "isDense": record["technique"] == DENSE,
                "ratio": record.get("ratio"),
                "y": value,
                "hover": hover(record),
                "costs": {axis.field: _scaled(record, axis) for axis in axes},
            }
            for record, value in zip(measured, values, strict=True)
        ],
        "means": {
            line.label: [[point.x, point.y / one.divisor] for point in line.points]
            for line in lines(measured, "ratio", panel.field)
        },
        "fronts": {axis.field: _front(measured, panel, axis) for axis in axes},
    }


def _scaled(record: Record, axis: Axis) -> int | float | None:
    return None if record.get(axis.field) is None else record[axis.field] / axis.divisor


def _front(measured: Sequence[Record], panel: Panel, axis: Axis) -> list[int]:
    """Places of the points on the Pareto front of a cost and the panel's quality."""
    if panel.quantity.higher_is_better is None:
        return []
    places = [place for place, record in enumerate(measured) if record.get(axis.field) is not None]
    sign = 1 if axis.smaller_is_better else -1
    points = [(sign * measured[place][axis.field], measured[place][panel.field]) for place in places]
    return [places[place] for place in front(points, panel.quantity.higher_is_better)]
