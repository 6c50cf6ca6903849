"""Quality on a log axis against ratio, six times: x up to 0.2, 0.4, 0.5, 0.6, 0.8 and 1, each with its own y range."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from slimsweep.figures.ratio_curve import draw_levels, seeds_note
from slimsweep.figures.series import Line, Panel, baselines_of, curves, log_quality
from slimsweep.figures.style import PAGE_INCHES, footnote, new_figure

SWEEPS = ("unstructured",)

LIMITS = {0.2: 0.05, 0.4: 0.1, 0.5: 0.1, 0.6: 0.1, 0.8: 0.2, 1.0: 0.2}
"""Largest ratio of each panel, and the distance of its ticks."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`ratio_zoom_<corpus>`: six panels over the width of a page."""
    return {f"ratio_zoom_{panel.stem}": _figure(panel, drawn) for panel, drawn in curves(records, log_quality)}


def _figure(panel: Panel, drawn: Sequence[Line]) -> Figure:
    figure = new_figure(PAGE_INCHES, 4.2)
    grid = figure.subplots(2, 3).flatten()
    baselines = baselines_of(panel)
    for axes, (limit, step) in zip(grid, LIMITS.items(), strict=True):
        draw_levels(axes, [_until(line, limit) for line in drawn], baselines)
        axes.set_xlim(0, limit * 1.02)
        axes.set_xticks([round(step * tick, 2) for tick in range(round(limit / step) + 1)])
        axes.set_xlabel("ratio of weights removed" if axes in grid[3:] else "")
        axes.set_title(f"ratio up to {limit:g}", loc="left")
    figure.supylabel(panel.quantity.axis(), fontsize=8)
    title = [*panel.title.split("\n"), *filter(None, [seeds_note(drawn)])]
    figure.suptitle("; ".join(title), fontsize=8)
    footnote(figure, panel.protocol)
    handles, labels = grid[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
    return figure


def _until(line: Line, limit: float) -> Line:
    points = tuple(point for point in line.points if point.x <= limit)
    return replace(line, points=points, unmeasured=tuple(x for x in line.unmeasured if x <= limit))
