"""Quality on a log axis against what a structured model still costs: parameters, memory, multiply-accumulates."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.series import Panel, dense, lines, log_quality, panels
from slimsweep.figures.style import appearances, log_axis, new_figure, paper_title, place_legend, scaled
from slimsweep.records.quantities import quantity

SWEEPS = ("structured",)

COSTS = ("parameters", "load_memory_bytes", "gmacs")


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`cost_curve_<corpus>`: three panels, both axes logarithmic, the dense model a star."""
    return {
        f"cost_curve_{panel.stem}": _figure(panel)
        for panel in panels(records, log_quality)
        if any(line.points for line in lines(_smaller(panel), "parameters", panel.field))
    }


def _smaller(panel: Panel) -> list[dict[str, Any]]:
    """Records whose layers changed their shape: the others cost what the dense model does."""
    full = {record.get("parameters") for record in panel.records if record["technique"] == "dense"}
    return [record for record in panel.records if record.get("parameters") and record["parameters"] not in full]


def _figure(panel: Panel) -> Figure:
    figure = new_figure(height=5.6)
    every = figure.subplots(len(COSTS), 1)
    for axes, cost in zip(every, COSTS, strict=True):
        _draw(axes, panel, cost)
    paper_title(every[0], panel)
    place_legend(figure, every[-1], None, is_below=True)
    return figure


def _draw(axes: Axes, panel: Panel, cost: str) -> None:
    field, shown = panel.field, quantity(cost, panel.records)
    reduced = [record for record in _smaller(panel) if record.get(field) is not None and record.get(cost)]
    whole = {label: record for label, record in dense(panel.records, field).items() if record.get(cost)}
    measured = [*reduced, *whole.values()]
    divisor, unit = scaled(shown.unit, [record[cost] for record in measured])
    drawn = lines(reduced, cost, field)
    for line, look in zip(drawn, appearances([line.label for line in drawn]), strict=True):
        axes.plot(
            [point.x / divisor for point in line.points], [point.y for point in line.points], label=line.label, **look
        )
    for label, record in whole.items():
        axes.plot([record[cost] / divisor], [record[field]], "k*", markersize=7, label=label)
    log_axis(axes, [record[field] for record in measured])
    log_axis(axes, [record[cost] / divisor for record in measured], axes.xaxis)
    axes.set_xlabel(f"{shown.label}{unit}, log scale")
    axes.set_ylabel(panel.quantity.axis())
