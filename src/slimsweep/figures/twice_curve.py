"""Pruning twice against pruning once: what a second pass at the same ratio changes, and against what."""

import math
import textwrap
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.kinds import stages_of
from slimsweep.figures.ratio_curve import draw_levels, seeds_note
from slimsweep.figures.series import Line, Panel, baselines_of, lines, log_quality, panels, variants, without
from slimsweep.figures.style import (
    COLOURS,
    COLUMN_INCHES,
    LEGEND_ROW_INCHES,
    PAGE_INCHES,
    Look,
    footnote,
    legend_columns,
    new_figure,
)
from slimsweep.records.points import Record

SWEEPS = ("twice",)

ONCE_AT_X, ONCE_AT_S = "one pass at x", "one pass at s"
TWICE_ORIGINAL, TWICE_REMAINING = "two passes at s, of the original", "two passes at s, of what remains"

LOOKS: dict[str, Look] = {
    ONCE_AT_X: {"color": COLOURS[6], "marker": "D", "linestyle": ":"},
    ONCE_AT_S: {"color": COLOURS[0], "marker": "o"},
    # Large and hollow: where it lies on the line before it, both are seen.
    TWICE_ORIGINAL: {
        "color": COLOURS[1],
        "marker": "s",
        "linestyle": (0, (4, 3)),
        "markersize": 7,
        "markerfacecolor": "none",
    },
    TWICE_REMAINING: {"color": COLOURS[2], "marker": "^"},
}

COLUMNS = 3
PASS_TICKS = (0.2, 0.4, 0.6, 0.8)


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`twice_curve_<corpus>`: one panel per technique over x = 1 - (1 - s)^2, s on the upper edge.

    x is the share that two passes at s remove when each takes s of what is left. Two comparisons share the axis:

    - at equal s: one pass at s beside two passes at s of the original weights. The second pass finds its ratio
      fulfilled, so both lines coincide; both are drawn at x though they remove s only, as the study plotted them.
    - at equal sparsity: two passes at s of what remains beside one pass at x, which truly remove x.

    A single pass of a ratio that also has two passes is thus drawn twice: at 1 - (1 - s)^2 and at its own ratio.
    """
    figures = {}
    for panel in panels(records, log_quality):
        kinds = {label: passes(members, panel.field) for label, members in variants(_pruned(panel.records)).items()}
        if compared := {label: drawn for label, drawn in sorted(kinds.items()) if _has_two(drawn)}:
            figures[f"twice_curve_{panel.stem}"] = _figure(panel, compared)
    return figures


def _pruned(records: list[Record]) -> list[Record]:
    """Records with a ratio and a single stage that has one, `passes` and `of` moved from its knobs to the record.

    Neither tells a variant here; a record without them was pruned once.
    """
    found = []
    for record, plain in zip(records, without(records, "passes", "relative_to"), strict=True):
        knobs = [stage["fields"] for stage in stages_of(record) if stage.get("fields", {}).get("ratio") is not None]
        if len(knobs) == 1 and record.get("ratio") is not None:
            found.append(
                plain | {"passes": knobs[0].get("passes", 1), "relative_to": knobs[0].get("relative_to", "original")}
            )
    return found


def passes(members: list[Record], field: str) -> list[Line]:
    """The four lines of one technique, those without records left out."""
    once = {(one["ratio"], one.get("seed")): one for one in members if one["passes"] == 1}  # `of` changes nothing here
    twice = [one for one in members if one["passes"] == 2]
    repeated = {one["ratio"] for one in twice}
    roles = {
        ONCE_AT_X: [one | {"x": one["ratio"]} for one in once.values()],
        ONCE_AT_S: [one | {"x": removed_by_two(one["ratio"])} for one in once.values() if one["ratio"] in repeated],
        TWICE_ORIGINAL: [
            one | {"x": removed_by_two(one["ratio"])} for one in twice if one["relative_to"] == "original"
        ],
        TWICE_REMAINING: [
            one | {"x": removed_by_two(one["ratio"])} for one in twice if one["relative_to"] == "remaining"
        ],
    }
    return [replace(line, label=role) for role, placed in roles.items() for line in lines(placed, "x", field)]


def _has_two(drawn: list[Line]) -> bool:
    return any(line.points for line in drawn if line.label in (TWICE_ORIGINAL, TWICE_REMAINING))


def removed_by_two(ratio: int | float) -> float:
    """The share that two passes remove when each takes `ratio` of what is left."""
    return round(1 - (1 - ratio) ** 2, 9)


def _figure(panel: Panel, compared: dict[str, list[Line]]) -> Figure:
    columns = min(COLUMNS, len(compared))
    rows = math.ceil(len(compared) / columns)
    width = COLUMN_INCHES if columns == 1 else PAGE_INCHES
    figure = new_figure(width, 1.0 + 2.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    baselines = baselines_of(panel)
    for axes, (label, drawn) in zip(grid, compared.items(), strict=False):
        draw_levels(axes, drawn, baselines, [LOOKS[line.label] for line in drawn])
        _place_axes(axes, label)
    for axes in grid[len(compared) :]:
        axes.set_axis_off()
    figure.supylabel(panel.quantity.axis(), fontsize=8)
    every = [line for drawn in compared.values() for line in drawn]
    notes = [*panel.title.split("\n"), *filter(None, [seeds_note(every)])]
    figure.suptitle(textwrap.fill("; ".join(notes), 52 if columns == 1 else 110), fontsize=8)
    footnote(figure, panel.protocol)
    entries = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    beside = legend_columns(list(entries), 3, width)
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=beside)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * math.ceil(len(entries) / beside))
    return figure


def _place_axes(axes: Axes, label: str) -> None:
    axes.set_xlim(0, 1.03)  # a mark at 0.99 stands whole
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    upper = axes.secondary_xaxis(
        "top", functions=(lambda x: 1 - np.sqrt(np.clip(1 - x, 0, None)), lambda s: 1 - (1 - s) ** 2)
    )
    upper.set_xticks(PASS_TICKS)
    axes.set_xlabel("x = 1 - (1 - s)²; above: s")
    axes.set_title(label, loc="left")
