"""Quality of a task against the bytes of the weights and against the latency of one example."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.series import Panel, by_device, file_word, linear_quality, panels
from slimsweep.figures.style import COLOURS, MARKERS, new_figure, paper_title, place_legend, scaled
from slimsweep.records.points import Record, distinctions
from slimsweep.records.quantities import quantity

SWEEPS = ("bert_sst2", "summarization", "translation")

SIZE, LATENCY = "weight_bytes", "latency_seconds"
MILLISECONDS = 1e-3


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`accuracy_size_latency_<task>`: one point for each model, the same mark in both panels; times of one machine."""
    figures = {}
    for panel in panels(records, linear_quality):
        timed = [record for record in panel.records if None not in (record.get(LATENCY), record.get(panel.field))]
        for device, members in by_device(timed).items() if timed else ():
            if len(members) > 1 and any(record.get(SIZE) for record in members):
                suffix = f"_{file_word(device)}" if device else ""
                figures[f"accuracy_size_latency_{panel.stem}{suffix}"] = _figure(panel, members)
    return figures


def names_of(records: Sequence[Record]) -> list[str]:
    """A name for each record: its chain, its ratio, and the settings that tell it from others of its chain."""
    names = []
    for record, settings in zip(records, distinctions(records), strict=True):
        ratio = "" if record.get("ratio") is None else f"{record['ratio']:g}"
        names.append(", ".join(word for word in (f"{record['technique']} {ratio}".strip(), settings) if word))
    return names


def _figure(panel: Panel, records: Sequence[Record]) -> Figure:
    figure = new_figure(height=4.4)
    upper, lower = figure.subplots(2, 1, sharey=True)
    divisor, unit = scaled(quantity(SIZE, records).unit, [record.get(SIZE) or 0 for record in records])
    _draw(upper, panel, records, SIZE, divisor)
    _draw(lower, panel, records, LATENCY, MILLISECONDS)
    upper.set_xlabel(f"{quantity(SIZE, records).label}{unit}")
    lower.set_xlabel(f"{quantity(LATENCY, records).label} (ms)")
    figure.supylabel(panel.quantity.axis(*["±1 s.e."] * bool(panel.quantity.error)), fontsize=8)
    paper_title(upper, panel)
    place_legend(figure, lower, None, is_below=True)
    return figure


def _draw(axes: Axes, panel: Panel, records: Sequence[Record], cost: str, divisor: int | float) -> None:
    """Marks of a colour for each chain, with the standard error of the quality where it has one."""
    names = names_of(records)
    chains = list(dict.fromkeys(names))
    for name, record in zip(names, records, strict=True):
        if record.get(cost) is None:
            continue
        place = chains.index(name)
        axes.errorbar(
            [record[cost] / divisor],
            [record[panel.field]],
            yerr=[record.get(panel.quantity.error) or 0.0],
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle="",
            elinewidth=0.6,
            label=name,
        )
    axes.set_xlim(left=0)
