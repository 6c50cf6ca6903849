"""Quality on a log axis against the number of parameters, for weights stored as products of smaller ones."""

from typing import Any

from matplotlib.figure import Figure

from slimsweep.figures.ratio_curve import draw_levels, seeds_note
from slimsweep.figures.series import Line, Panel, baselines_of, dense, lines, log_quality, panels
from slimsweep.figures.style import new_figure, paper_title, place_legend, scaled
from slimsweep.records.quantities import quantity

SWEEPS = ("low_rank",)

SIZE = "parameters"


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`low_rank_curve_<corpus>`: dense model dashed, and a star at its own size.

    A pair that puts back what another stage took stands beside the point of that stage alone.
    """
    figures = {}
    for panel in panels(records, log_quality):
        drawn = [line for line in lines(panel.records, SIZE, panel.field) if line.points]
        if drawn:
            figures[f"low_rank_curve_{panel.stem}"] = _figure(panel, drawn)
    return figures


def _figure(panel: Panel, drawn: list[Line]) -> Figure:
    figure = new_figure(height=2.8)
    axes = figure.add_subplot()
    shown = quantity(SIZE, panel.records)
    divisor, unit = scaled(shown.unit, [point.x for line in drawn for point in line.points])
    draw_levels(axes, [_divided(line, divisor) for line in drawn], baselines_of(panel))
    for record in dense(panel.records, panel.field).values():
        if record.get(SIZE):
            axes.plot([record[SIZE] / divisor], [record[panel.field]], "k*", markersize=7)
    axes.set_xlabel(f"{shown.label}{unit}")
    axes.set_ylabel(panel.quantity.axis())
    paper_title(axes, panel)
    place_legend(figure, axes, seeds_note(drawn), is_below=True)
    return figure


def _divided(line: Line, divisor: int | float) -> Line:
    points = tuple(type(one)(one.x / divisor, one.y, one.deviation, one.count, one.records) for one in line.points)
    return Line(line.label, points, tuple(x / divisor for x in line.unmeasured))
