"""Quality before and after training, over the ratio of weights removed: one file per corpus."""

from typing import Any

from matplotlib.figure import Figure

from slimsweep.figures.kinds import is_pruned, is_trained
from slimsweep.figures.ratio_curve import draw_levels, seeds_note
from slimsweep.figures.series import Line, Panel, baselines_of, lines, log_quality, panels
from slimsweep.figures.style import Look, appearances, new_figure, paper_title, place_legend
from slimsweep.records.record import BEFORE

SWEEPS = ("recovery",)

MARGIN = 0.05
"""Distance that the x axis reaches beyond the smallest and largest ratio."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`recovery_curve_<corpus>`: after training solid, before it dotted in grey, dense model dashed."""
    figures = {}
    for panel in panels(records, log_quality):
        trained = [record for record in panel.records if is_trained(record) and is_pruned(record)]
        after = lines(trained, "ratio", panel.field)
        if any(line.points for line in after):
            figures[f"recovery_curve_{panel.stem}"] = _figure(panel, after, before_of(trained, panel.field))
    return figures


def before_of(trained: list[dict[str, Any]], field: str) -> list[Line]:
    """Lines of the quality before training, each once, whatever was trained after it."""
    found: dict[tuple, Line] = {}
    for line in lines(trained, "ratio", f"{field}{BEFORE}"):
        if line.points:
            found.setdefault(tuple((point.x, point.y) for point in line.points), line)
    several = len(found) > 1
    return [
        Line(" ".join(["before training", *[f"({place})"] * several]), line.points, line.unmeasured)
        for place, line in enumerate(found.values(), 1)
    ]


def _figure(panel: Panel, after: list[Line], before: list[Line]) -> Figure:
    figure = new_figure(height=2.8)
    axes = figure.add_subplot()
    looks: list[Look] = appearances([line.label for line in after])
    grey = {"color": "0.45", "linestyle": ":"}
    looks += [grey | {"marker": marker} for marker in ("x", "+", "1", "2", "3", "4")[: len(before)]]
    drawn = [*after, *before[: len(looks) - len(after)]]
    draw_levels(axes, drawn, baselines_of(panel), looks)
    ratios = sorted({point.x for line in drawn for point in line.points})
    axes.set_xlim(ratios[0] - MARGIN, ratios[-1] + MARGIN)
    axes.set_xlabel("ratio of weights removed")
    axes.set_ylabel(panel.quantity.axis())
    paper_title(axes, panel)
    place_legend(figure, axes, seeds_note(drawn), is_below=True)
    return figure
