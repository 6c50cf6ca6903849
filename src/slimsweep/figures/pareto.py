"""Quality on a log axis against the bytes held in memory and against the nonzero parameters."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.series import Panel, dense, lines, log_quality, panels
from slimsweep.figures.style import appearances, log_axis, new_figure, paper_title, place_legend, scaled
from slimsweep.records.front import front
from slimsweep.records.quantities import quantity

SWEEPS = ("unstructured",)

SIZES = ("weight_bytes", "nonzero_parameters")


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`pareto_<corpus>`: two panels, one column wide; no other point beats the dotted stairs in both."""
    figures = {}
    for panel in panels(records, log_quality):
        measured = [record for record in panel.records if record.get(panel.field) is not None]
        if any(record["technique"] != "dense" and any(map(record.get, SIZES)) for record in measured):
            figures[f"pareto_{panel.stem}"] = _figure(panel)
    return figures


def _figure(panel: Panel) -> Figure:
    figure = new_figure(height=4.2)
    upper, lower = figure.subplots(2, 1)
    for axes, size in zip((upper, lower), SIZES, strict=True):
        _draw(axes, panel, size)
    paper_title(upper, panel)
    place_legend(figure, lower, None, is_below=True)
    return figure


def _draw(axes: Axes, panel: Panel, size: str) -> None:
    field, shown = panel.field, quantity(size, panel.records)
    measured = [record for record in panel.records if record.get(field) is not None and record.get(size)]
    divisor, unit = scaled(shown.unit, [record[size] for record in measured])
    curves = lines(measured, size, field)
    for curve, look in zip(curves, appearances([curve.label for curve in curves]), strict=True):
        x, y = [point.x / divisor for point in curve.points], [point.y for point in curve.points]
        axes.plot(x, y, linewidth=0.7, label=curve.label, **look)
    for label, record in dense(measured, field).items():
        axes.plot([record[size] / divisor], [record[field]], "k*", markersize=7, label=label)
    points = [(record[size] / divisor, record[field]) for record in measured]
    stairs = frontier(points, panel.quantity.higher_is_better is True)
    if len(stairs) > 1:
        x, y = [point[0] for point in stairs], [point[1] for point in stairs]
        axes.step(x, y, where="post", color="#444444", linewidth=1.0, linestyle=":", zorder=1, label="Pareto front")
    if len({record[size] for record in measured}) == 1 and len(measured) > 1:
        axes.text(0.04, 0.9, "All of one size:\nzeros alone save no memory.", transform=axes.transAxes, va="top")
    if measured:
        log_axis(axes, [record[field] for record in measured])
        axes.set_xlim(0, 1.06 * max(record[size] for record in measured) / divisor)
    axes.set_xlabel(f"{shown.label}{unit}")
    axes.set_ylabel(panel.quantity.axis())


def frontier(
    points: Sequence[tuple[int | float, int | float]], higher_is_better: bool = False
) -> list[tuple[int | float, int | float]]:
    """The points that no other one beats in both coordinates, by growing first one; a smaller first one is better."""
    return [points[place] for place in front(points, higher_is_better)]
