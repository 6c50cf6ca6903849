"""Quality, memory and speed of plain and quantized chains side by side, over the ratio: one file per corpus."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.evaluation.quantity import Quantity
from slimsweep.figures.quantized_curve import NOTE, compared_panels, draw_over_ratio, looks, placed, ratio_axis
from slimsweep.figures.ratio_curve import seeds_note
from slimsweep.figures.series import Line, Panel, by_device, is_speedup, linear_quality, log_quality, panels
from slimsweep.figures.style import (
    LEGEND_ROW_INCHES,
    PAGE_INCHES,
    Look,
    footnote,
    legend_columns,
    log_axis,
    new_figure,
    scaled,
)
from slimsweep.records.points import Record
from slimsweep.records.quantities import quantity

SWEEPS = ("quantized",)

COLUMNS = 3
ROW_INCHES = 1.75

MEMORY = ("weight_bytes", "load_memory_bytes")


@dataclass(frozen=True)
class Pane:
    """One small panel: a field over the ratio."""

    quantity: Quantity
    title: str
    unit: str
    records: list[Record]


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`quantized_panels_<corpus>`: encoded as `quantized_curve`; a quantity that no record shown measured has no panel.

    The same chains are left out.
    """
    return {f"quantized_panels_{panel.stem}": _figure(panel, panes_of(panel)) for panel in compared_panels(records)}


def panes_of(panel: Panel) -> list[Pane]:
    """The panels of one model and corpus that have something to show.

    Accuracies and speed-ups of different protocols, and speed-ups of different devices, have panels of their own.
    """
    quality = panel.quantity
    found = [Pane(quality, f"{quality.label}, {panel.name}", quality.axis(), panel.records)]
    for task in panels(panel.records, linear_quality):
        measured = placed(task.records, task.field)
        found.append(Pane(task.quantity, f"{task.name}{_words(task.suffix)}", _unit(task.quantity, measured), measured))
    for name in MEMORY:
        measured, memory = placed(panel.records, name), quantity(name, panel.records)
        divisor, unit = scaled(memory.unit, [record[name] for record in measured])
        values = [one | {name: one[name] / divisor} for one in measured]
        found.append(Pane(memory, memory.label, f"memory{unit}", values))
    for way in panels(panel.records, is_speedup):
        for place, here in by_device(placed(way.records, way.field)).items():
            title = f"{way.name} speed{_words(way.suffix)}{_words(place)}"
            found.append(Pane(way.quantity, title, way.quantity.axis(), here))
    return [pane for pane in found if pane.records]


def _words(suffix: str) -> str:
    """End of a panel's title that tells it from others of its field."""
    return f", {suffix.removeprefix('_')}" if suffix else ""


def _unit(quantity: Quantity, records: list[Record]) -> str:
    """Label of an axis: the largest standard error in place of the unit, where there is one."""
    errors = [record.get(quantity.error) or 0.0 for record in records]
    return f"{quantity.label} (s.e. ≤ {quantity.deviation_text(max(errors))})" if any(errors) else quantity.axis()


def _figure(panel: Panel, panes: list[Pane]) -> Figure:
    rows = math.ceil(len(panes) / COLUMNS)
    figure = new_figure(PAGE_INCHES, 0.5 + ROW_INCHES * rows)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    look = looks(panel.records)
    every = [line for axes, pane in zip(grid, panes, strict=False) for line in _draw(axes, pane, look)]
    for axes in grid[: len(panes)]:
        ratio_axis(axes, panel.records)
    for axes in grid[len(panes) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(panes) - COLUMNS) : len(panes)]:
        axes.set_xlabel("ratio of weights removed")
    note = seeds_note(every)
    figure.suptitle("; ".join(panel.title.split("\n")), fontsize=8)
    footnote(figure, panel.protocol)
    entries = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = legend_columns(list(entries), 4, PAGE_INCHES)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * (1 + math.ceil(len(entries) / columns)))
    title = f"{NOTE}; {note}" if note else NOTE
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, title=title, title_fontsize=7)
    return figure


def _draw(axes: Axes, pane: Pane, look: Callable[[Record], Look]) -> list[Line]:
    quantity = pane.quantity
    drawn, values = draw_over_ratio(axes, pane.records, quantity.field, look)
    if log_quality(quantity):
        log_axis(axes, values)
    elif not linear_quality(quantity):
        axes.set_ylim(0, 1.08 * max(*values, 1 if is_speedup(quantity) else 0))
    if is_speedup(quantity):
        axes.axhline(1, color="black", linewidth=0.8, zorder=1)
    axes.set_title(pane.title, loc="left")
    axes.set_ylabel(pane.unit)
    return drawn
