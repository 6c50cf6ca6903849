"""Quality on a linear axis against the ratio of weights removed, with its standard error: one file per task."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from slimsweep.figures.ratio_curve import seeds_note
from slimsweep.figures.series import Line, Panel, Point, curves, dense, linear_quality
from slimsweep.figures.style import appearances, new_figure, paper_title, place_legend

SWEEPS = ("unstructured",)

SHIFT = 0.006
"""Lines are moved apart by this much of the x axis, so that their error bars do not cover each other."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`accuracy_curve_<task>`: bars of ±1 standard error, bands of ±1 deviation where there are seeds."""
    return {f"accuracy_curve_{panel.stem}": _figure(panel, drawn) for panel, drawn in curves(records, linear_quality)}


def _figure(panel: Panel, drawn: Sequence[Line]) -> Figure:
    quantity, error_field = panel.quantity, panel.quantity.error
    figure = new_figure(height=2.6)
    axes = figure.add_subplot()
    looks = appearances([line.label for line in drawn])
    for position, (line, look) in enumerate(zip(drawn, looks, strict=True)):
        shift = SHIFT * (position - (len(drawn) - 1) / 2)
        x, y = [point.x + shift for point in line.points], [point.y for point in line.points]
        errors = [_standard_error(point, error_field) for point in line.points]
        axes.errorbar(x, y, yerr=errors, elinewidth=0.7, label=line.label, **look)
        low = [point.y - point.deviation for point in line.points]
        high = [point.y + point.deviation for point in line.points]
        repeated = [point.count > 1 for point in line.points]
        axes.fill_between(x, low, high, where=repeated, color=look["color"], alpha=0.25, linewidth=0)
    for label, record in dense(panel.records, panel.field).items():
        value, error = record[panel.field], record.get(error_field) or 0.0
        axes.axhline(value, color="black", linestyle="--", linewidth=0.9, label=f"{label} ({quantity.text(value)})")
        axes.axhspan(value - error, value + error, color="black", alpha=0.08, linewidth=0)
    axes.set_xlim(0, 1)
    axes.set_xticks([tick / 10 for tick in range(11)])
    axes.set_xlabel("ratio of weights removed")
    axes.set_ylabel(quantity.axis(*["±1 s.e."] * bool(error_field)))
    paper_title(axes, panel)
    place_legend(figure, axes, seeds_note(drawn), is_below=True)
    return figure


def _standard_error(point: Point, field: str) -> float:
    """Mean standard error of a point's seeds: they answer the same questions, so more do not shrink it."""
    errors = [record[field] for record in point.records if record.get(field) is not None]
    return sum(errors) / len(errors) if errors else 0.0
