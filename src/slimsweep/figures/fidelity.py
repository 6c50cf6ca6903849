"""Distance from the base: KL and agreement of top tokens over the ratio of pruners and the bits of quantizers."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.evaluation.quantity import Quantity
from slimsweep.figures.bits_curve import KNOBS, bits_axis
from slimsweep.figures.kinds import is_pruned, is_quantized
from slimsweep.figures.ratio_curve import draw_line, mark_overflow, seeds_note
from slimsweep.figures.series import Line, Panel, lines, panels, without
from slimsweep.figures.style import (
    LEGEND_ROW_INCHES,
    PAGE_INCHES,
    Look,
    appearances,
    footnote,
    legend_columns,
    log_axis,
    new_figure,
)
from slimsweep.records.points import Record
from slimsweep.records.quantities import quantities_of, quantity

SWEEPS = ("unstructured", "bits")

ROW_INCHES = 1.9
LABEL_LETTERS = 24
"""Letters of a label's line that fit beside a row."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`fidelity_<corpus>`: above KL on a log axis, below agreement; pruned models left, quantized ones right.

    Chains of both kinds are left out, and so is the base, whose KL is 0 and whose agreement is 1.
    """
    figures = {}
    for panel in panels(records, lambda one: one.kind == "kl"):
        columns = _columns(panel.records)
        if any(one.points for x, members in columns for one in lines(members, x, panel.field)):
            figures[f"fidelity_{panel.stem}"] = _figure(panel, columns)
    return figures


def _columns(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Field of the x axis and records of each column that has any."""
    pruned = [one for one in records if is_pruned(one) and not is_quantized(one) and one.get("ratio") is not None]
    quantized = without([one for one in records if is_quantized(one) and not is_pruned(one)], *KNOBS)
    return [(x, found) for x, found in (("ratio", pruned), ("bits_per_weight", quantized)) if found]


def _figure(panel: Panel, columns: list[tuple[str, list[Record]]]) -> Figure:
    rows = [panel.quantity, *_agreement(panel)]
    drawn = {(row.field, x): lines(members, x, row.field) for x, members in columns for row in rows}
    labels = sorted({line.label for every in drawn.values() for line in every})
    looks = dict(zip(labels, appearances(labels), strict=True))
    width = PAGE_INCHES * len(columns) / 2
    figure = new_figure(width, 0.4 + ROW_INCHES * len(rows))
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex="col", sharey="row")
    for row, quantity_shown in enumerate(rows):
        _draw_row(list(grid[row]), quantity_shown, [drawn[quantity_shown.field, x] for x, _ in columns], looks)
    for axes, (x, members) in zip(grid[-1], columns, strict=True):
        _label_x(axes, x, members)
    figure.suptitle(("; " if len(columns) > 1 else "\n").join(panel.title.split("\n")), fontsize=8)
    footnote(figure, panel.protocol)
    _legend(figure, seeds_note([line for every in drawn.values() for line in every]))
    return figure


def _agreement(panel: Panel) -> list[Quantity]:
    """The agreement that was measured on the same text, where it was."""
    found = quantities_of(panel.records).values()
    return [one for one in found if one.kind == "top_agreement" and one.name == panel.quantity.name]


def _draw_row(grid: Sequence[Axes], shown: Quantity, columns: list[list[Line]], looks: dict[str, Look]) -> None:
    """One quantity in all columns, which share its axis."""
    values = []
    for axes, drawn in zip(grid, columns, strict=True):
        for line in drawn:
            values += draw_line(axes, line, looks[line.label])
        mark_overflow(axes, drawn, [looks[line.label] for line in drawn])
    grid[0].set_ylabel(textwrap.fill(shown.axis(), LABEL_LETTERS))
    if shown.scale == "log":
        for axes in grid:
            log_axis(axes, [value for value in values if math.isfinite(value)])


def _label_x(axes: Axes, x: str, members: Sequence[Record]) -> None:
    if x == "ratio":
        axes.set_xlim(0, 1)
        axes.set_xticks([tick / 10 for tick in range(11)])
        axes.set_xlabel("ratio of weights removed")
        return
    bits_axis(axes, [record[x] for record in members if record.get(x)])
    axes.set_xlabel(quantity(x, members).axis())


def _legend(figure: Figure, note: str | None) -> None:
    entries = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = legend_columns(list(entries), 4, figure.get_figwidth())
    rows = math.ceil(len(entries) / columns) + bool(note)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * rows)
    look = {"title": note, "title_fontsize": 7}
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, **look)
