"""Quality on a log axis against the ratio of weights removed: one file per corpus, one line per technique."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.series import Line, Panel, baselines_of, curves, log_quality
from slimsweep.figures.style import Look, appearances, log_axis, new_figure, paper_title, place_legend

SWEEPS = ("unstructured",)


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`ratio_curve_<corpus>`: every quality with a log axis, dense model dashed, band of one deviation."""
    return {f"ratio_curve_{panel.stem}": _figure(panel, drawn) for panel, drawn in curves(records, log_quality)}


def _figure(panel: Panel, drawn: Sequence[Line]) -> Figure:
    figure = new_figure(height=2.6)
    axes = figure.add_subplot()
    baselines = baselines_of(panel)
    draw_levels(axes, drawn, baselines)
    axes.set_xlim(0, 1)
    axes.set_xticks([tick / 10 for tick in range(11)])
    axes.set_xlabel("ratio of weights removed")
    axes.set_ylabel(panel.quantity.axis())
    paper_title(axes, panel)
    place_legend(figure, axes, seeds_note(drawn))
    return figure


def draw_levels(
    axes: Axes, drawn: Sequence[Line], baselines: dict[str, float], looks: Sequence[Look] | None = None
) -> None:
    """Lines with bands, dense levels and marks for what overflowed, on a logarithmic y axis.

    Lines look as their labels say, unless `looks` tells one of each.
    """
    values = list(baselines.values())
    looks = looks or appearances([line.label for line in drawn])
    for line, look in zip(drawn, looks, strict=True):
        values += draw_line(axes, line, look)
    for label, value in baselines.items():
        axes.axhline(value, color="black", linestyle="--", linewidth=0.9, label=f"{label} ({value:.4g})")
    if values:
        log_axis(axes, values)
    mark_overflow(axes, drawn, looks)


def draw_line(axes: Axes, line: Line, look: Look) -> list[float]:
    """A line with a bar at each point, and a band between neighbours, that have several seeds: ±1 deviation.

    Returns every y drawn.
    """
    x, y = [point.x for point in line.points], [point.y for point in line.points]
    low = [max(point.y - point.deviation, point.y / 10) for point in line.points]  # a log axis has no zero
    high = [point.y + point.deviation for point in line.points]
    repeated = [point.count > 1 for point in line.points]
    axes.plot(x, y, label=line.label, **look)
    if any(repeated):
        bars = [
            [middle - below for middle, below in zip(y, low, strict=True)],
            [point.deviation for point in line.points],
        ]
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=look["color"], elinewidth=0.7, capsize=1.5)
        axes.fill_between(x, low, high, where=repeated, color=look["color"], alpha=0.25, linewidth=0)
    return low + high


def mark_overflow(axes: Axes, drawn: Sequence[Line], looks: Sequence[Look]) -> None:
    """A hollow triangle at the upper edge wherever a value is null because it overflowed."""
    for line, look in zip(drawn, looks, strict=True):
        if line.unmeasured:
            axes.plot(
                line.unmeasured,
                [1.0] * len(line.unmeasured),
                transform=axes.get_xaxis_transform(),
                linestyle="",
                marker="^",
                markerfacecolor="white",
                markeredgecolor=look["color"],
                clip_on=False,
                label=f"{line.label}: no finite value",
            )


def seeds_note(drawn: Sequence[Line]) -> str | None:
    """Sentence on what bars and bands stand for, or None where no point has several seeds."""
    counts = sorted({point.count for line in drawn for point in line.points if point.count > 1})
    return f"band: ±1 s.d. over {' or '.join(map(str, counts))} seeds" if counts else None
