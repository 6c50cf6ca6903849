"""Size and quality along a chain, stage by stage, and those of other orders of the same stages beside its end."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.kinds import stages_of
from slimsweep.figures.series import DENSE, Panel, log_quality, panels
from slimsweep.figures.style import COLOURS, PAGE_INCHES, log_axis, new_figure, paper_title, scaled
from slimsweep.records.points import Record
from slimsweep.records.quantities import quantity

SWEEPS = ("workflow",)

SIZE = "weight_bytes"


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`workflow_<corpus>`: the longest chain all of whose prefixes were measured; bars are sizes, dots quality."""
    figures = {}
    for panel in panels(records, log_quality):
        measured = [record for record in panel.records if None not in (record.get(panel.field), record.get(SIZE))]
        steps = steps_of(measured)
        if len(steps) > 2:
            last = sorted(stage["name"] for stage in stages_of(steps[-1]))
            others = [
                record
                for record in measured
                if record is not steps[-1] and sorted(stage["name"] for stage in stages_of(record)) == last
            ]
            figures[f"workflow_{panel.stem}"] = _figure(panel, steps, others)
    return figures


def steps_of(records: list[Record]) -> list[Record]:
    """The dense model and each prefix of the longest chain whose prefixes are all there, in order."""
    known = {tuple(_settings(record)): record for record in records}
    longest: list[Record] = []
    for chain in known:
        prefixes = [chain[:length] for length in range(len(chain) + 1)]
        if all(prefix in known for prefix in prefixes) and len(prefixes) > len(longest):
            longest = [known[prefix] for prefix in prefixes]
    return longest


def _settings(record: Record) -> list[str]:
    """One text for each stage of a chain, with its knobs."""
    if record["technique"] == DENSE:
        return []
    return [f"{stage['name']} {sorted(map(str, stage.get('fields', {}).items()))}" for stage in stages_of(record)]


def _figure(panel: Panel, steps: list[Record], others: list[Record]) -> Figure:
    figure = new_figure(width=PAGE_INCHES, height=4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    labels = [DENSE, *(f"+ {stages_of(record)[-1]['name']}" for record in steps[1:])]
    labels += ["\n".join(["instead:", *(stage["name"] for stage in stages_of(record))]) for record in others]
    _draw_quality(upper, panel, steps, others)
    _draw_sizes(lower, steps, others)
    lower.set_xticks(range(len(labels)), labels)
    paper_title(upper, panel)
    return figure


def _draw_quality(axes: Axes, panel: Panel, steps: list[Record], others: list[Record]) -> None:
    values = [record[panel.field] for record in (*steps, *others)]
    axes.plot(range(len(steps)), values[: len(steps)], color=COLOURS[0], marker="o")
    axes.plot(range(len(steps), len(values)), values[len(steps) :], color=COLOURS[1], marker="D", linestyle="")
    for place, value in enumerate(values):
        axes.annotate(
            panel.quantity.text(value), (place, value), xytext=(0, 5), textcoords="offset points", ha="center"
        )
    log_axis(axes, [*values, 1.4 * max(values)])
    axes.set_ylabel(panel.quantity.axis())


def _draw_sizes(axes: Axes, steps: list[Record], others: list[Record]) -> None:
    """Bars of what each step leaves; a pale one on top is what it took away."""
    shown = quantity(SIZE, steps)
    divisor, unit = scaled(shown.unit, [record[SIZE] for record in (*steps, *others)])
    sizes = [record[SIZE] / divisor for record in (*steps, *others)]
    colours = [COLOURS[0]] * len(steps) + [COLOURS[1]] * len(others)
    axes.bar(range(len(sizes)), sizes, color=colours, width=0.6)
    for place in range(1, len(steps)):
        taken = sizes[place - 1] - sizes[place]
        if taken > 0:
            axes.bar([place], [taken], bottom=[sizes[place]], color=COLOURS[0], alpha=0.2, width=0.6)
    for place, size in enumerate(sizes):
        axes.annotate(f"{size:.3g}", (place, size), xytext=(0, 2), textcoords="offset points", ha="center")
    axes.set_ylim(0, 1.25 * max(sizes))
    axes.set_ylabel(f"{shown.label}{unit}")
