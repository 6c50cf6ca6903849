"""Removing whole parts against zeroing weights: quality on a log axis over the ratio and over what is left."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.evaluation.quantity import Quantity
from slimsweep.figures.kinds import is_pruned, is_structured
from slimsweep.figures.series import Panel, dense, lines, log_quality, panels
from slimsweep.figures.style import appearances, log_axis, new_figure, paper_title, place_legend, scaled
from slimsweep.records.quantities import quantity

SWEEPS = ("unstructured", "structured")


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`structured_vs_unstructured_<corpus>`: removed parts dashed, zeroed weights solid."""
    figures = {}
    for panel in panels(records, log_quality):
        measured = [record for record in panel.records if record.get(panel.field) is not None]
        if {is_structured(record) for record in measured if is_pruned(record)} == {True, False}:
            figures[f"structured_vs_unstructured_{panel.stem}"] = _figure(panel, measured)
    return figures


def _figure(panel: Panel, measured: list[dict[str, Any]]) -> Figure:
    figure = new_figure(height=4.4)
    upper, lower = figure.subplots(2, 1)
    size = quantity("nonzero_parameters", measured)
    _draw(upper, measured, "ratio", panel.quantity, 1)
    upper.set_xlabel("ratio asked for")
    divisor, unit = scaled(size.unit, [record.get(size.field) or 0 for record in measured])
    _draw(lower, measured, size.field, panel.quantity, divisor)
    lower.set_xlabel(f"{size.label} left{unit}")
    paper_title(upper, panel)
    place_legend(figure, lower, "dashed: parts removed", is_below=True)
    return figure


def _draw(axes: Axes, measured: list[dict[str, Any]], x: str, quality: Quantity, divisor: int | float) -> None:
    field = quality.field
    drawn = lines(measured, x, field)
    for line, look in zip(drawn, appearances([line.label for line in drawn]), strict=True):
        style = "--" if is_structured(line.points[0].records[0]) else "-"
        places = [point.x / divisor for point in line.points]
        axes.plot(places, [point.y for point in line.points], linestyle=style, label=line.label, **look)
    for label, record in dense(measured, field).items():
        if x == "ratio":
            axes.axhline(
                record[field], color="black", linestyle=":", linewidth=0.9, label=f"{label} ({record[field]:.4g})"
            )
        elif record.get(x) is not None:
            axes.plot(
                [record[x] / divisor], [record[field]], "k*", markersize=7, label=f"{label} ({record[field]:.4g})"
            )
    log_axis(axes, [record[field] for record in measured])
    axes.set_xlim(left=0)
    axes.set_ylabel(quality.axis())
