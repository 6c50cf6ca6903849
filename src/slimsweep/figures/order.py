"""Prune then quantize against quantize then prune: quality of both orders, and what the order costs."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.kinds import is_pruned, is_quantized, prunes, quantizes, stages_of
from slimsweep.figures.ratio_curve import draw_levels, seeds_note
from slimsweep.figures.series import Line, Panel, baselines_of, lines, log_quality, panels
from slimsweep.figures.style import COLOURS, MARKERS, Look, log_axis, new_figure, paper_title, place_legend
from slimsweep.records.points import Record

SWEEPS = ("order",)

MARGIN = 0.05
"""Distance that the x axis reaches beyond the smallest and largest ratio."""

Pair = tuple[Line, Line]
"""A chain that prunes first, and the one of the same stages that quantizes first."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`order_<corpus>`: a colour per pair of techniques, solid where pruning comes first, dashed where quantizing does.

    The lower panel divides the second by the first at each ratio: above 1, quantizing first is worse.
    Chains whose exact reverse was not measured are left out: [half, wanda, nf4] pairs with [nf4, wanda, half] only.
    """
    pairs = [(panel, pairs_of(panel.records, panel.field)) for panel in panels(records, log_quality)]
    lower_is_better = [(panel, found) for panel, found in pairs if not panel.quantity.higher_is_better]
    return {f"order_{panel.stem}": _figure(panel, found) for panel, found in lower_is_better if found}


def pairs_of(records: list[Record], field: str) -> list[Pair]:
    """Lines over ratio of equal stages and settings in both orders, both with a point to show."""
    both = [record for record in records if is_pruned(record) and is_quantized(record)]
    found: dict[tuple, dict[bool, Line]] = {}
    for line in lines(both, "ratio", field):
        if line.points:
            record = line.points[0].records[0]
            stages = [stage["name"] for stage in stages_of(record)]
            settings = line.label.removeprefix(record["technique"])
            found.setdefault((*min(stages, stages[::-1]), settings), {})[prunes_first(record)] = line
    return [(orders[True], orders[False]) for _, orders in sorted(found.items()) if len(orders) == 2]


def prunes_first(record: Record) -> bool:
    """Whether the first stage that prunes or quantizes is one that prunes."""
    return next(prunes(stage) for stage in stages_of(record) if prunes(stage) or quantizes(stage))


def quotients(first: Line, second: Line) -> tuple[list[float], list[float]]:
    """Ratios at which both lines have a point, and there the second's value over the first's."""
    values = {point.x: point.y for point in first.points}
    shared = [point for point in second.points if point.x in values]
    return [point.x for point in shared], [point.y / values[point.x] for point in shared]


def _figure(panel: Panel, pairs: list[Pair]) -> Figure:
    figure = new_figure(height=4.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    drawn = [line for pair in pairs for line in pair]
    baselines = baselines_of(panel)
    looks = [look for place in range(len(pairs)) for look in _looks(place)]
    draw_levels(upper, drawn, baselines, looks)
    _draw_quotients(lower, pairs)
    upper.set_ylabel(panel.quantity.axis())
    ratios = sorted({point.x for line in drawn for point in line.points})
    lower.set_xlim(ratios[0] - MARGIN, ratios[-1] + MARGIN)
    lower.set_xticks(ratios if len(ratios) <= 10 else [tick / 10 for tick in range(11)])
    lower.set_xlabel("ratio of weights removed")
    paper_title(upper, panel)
    note = "solid: prune, then quantize; dashed: quantize, then prune"
    place_legend(figure, upper, "\n".join(filter(None, [note, seeds_note(drawn)])), is_below=True)
    return figure


def _looks(place: int) -> tuple[Look, Look]:
    shared = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
    return shared, shared | {"linestyle": "--", "markerfacecolor": "white"}


def _draw_quotients(axes: Axes, pairs: list[Pair]) -> None:
    values = [1.0]
    for place, (first, second) in enumerate(pairs):
        x, y = quotients(first, second)
        values += y
        axes.plot(x, y, **_looks(place)[0])
    axes.axhline(1, color="black", linewidth=0.8, zorder=1)
    log_axis(axes, values)
    axes.set_ylabel("quantize first /\nprune first (log)")
