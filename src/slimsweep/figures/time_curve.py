"""Quality on a log axis against the time its own measurement took: what a technique saves in practice, or does not."""

from typing import Any

from matplotlib.figure import Figure

from slimsweep.figures.kinds import is_structured
from slimsweep.figures.series import Panel, by_device, dense, file_word, lines, log_quality, panels
from slimsweep.figures.style import appearances, log_axis, new_figure, paper_title, place_legend
from slimsweep.records.quantities import quantity

SWEEPS = ("unstructured", "structured")


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`time_curve_<corpus>`: one point a job, both axes logarithmic; times of one device only share a figure."""
    figures = {}
    for panel in panels(records, log_quality):
        time = panel.quantity.seconds
        timed = [record for record in panel.records if None not in (record.get(panel.field), record.get(time))]
        for place, here in by_device(timed).items():
            if any(record["technique"] != "dense" for record in here):
                more = f"_{file_word(place)}" if place else ""
                figures[f"time_curve_{panel.stem}{more}"] = _figure(panel, time, here)
    return figures


def _figure(panel: Panel, time: str, records: list[dict[str, Any]]) -> Figure:
    field, seconds = panel.field, quantity(time, records)
    figure = new_figure(height=2.9)
    axes = figure.add_subplot()
    drawn = lines(records, time, field)
    for line, look in zip(drawn, appearances([line.label for line in drawn]), strict=True):
        fill = {} if not is_structured(line.points[0].records[0]) else {"markerfacecolor": "white"}
        x, y = [point.x for point in line.points], [point.y for point in line.points]
        axes.plot(x, y, linestyle="", label=line.label, **look, **fill)
    for label, record in dense(records, field).items():
        axes.plot([record[time]], [record[field]], "k*", markersize=7, label=label)
    log_axis(axes, [record[field] for record in records])
    log_axis(axes, [record[time] for record in records], axes.xaxis)
    axes.set_xlabel(f"{seconds.label}, {seconds.unit} (log scale)")
    axes.set_ylabel(panel.quantity.axis())
    paper_title(axes, panel)
    place_legend(figure, axes, "hollow: parts removed", is_below=True)
    return figure
