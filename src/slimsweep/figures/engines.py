"""The same methods in several engines: quality above, time to compress below, both on log axes."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.kinds import stages_of
from slimsweep.figures.series import Panel, by_device, dense, log_quality, panels
from slimsweep.figures.style import COLOURS, MARKERS, PAGE_INCHES, footnote, log_axis, new_figure, place_legend
from slimsweep.records.points import Record
from slimsweep.records.quantities import COMPRESS_SECONDS

SWEEPS = ("engines",)

OURS = "slimsweep"
PEERS = {
    "llmcompressor": "llm-compressor",
    "llmcompressor_quantizer": "llm-compressor",
    "sparseml": "sparseml",
}
"""Engine of each technique that is not ours."""
ENGINES = (OURS, *dict.fromkeys(PEERS.values()))
STEP = 0.18
"""Distance of two engines at one setting; settings are 1 apart."""

Values = dict[tuple[str, str, str], Record]
"""Records by method, setting and engine."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`engines_<corpus>`: methods that at least two engines computed; both axes of values logarithmic.

    Only records of one stage are compared; where several have one method, setting and engine, and differ in calibration
    or another knob, the first stands for all. Times of two places are figures of their own.
    """
    figures = {}
    for place, members in by_device(records).items():
        for panel in panels(members, log_quality):
            if values := compared(panel.records):
                figures[f"engines_{panel.stem}" + (f"_{place}" if place else "")] = _figure(panel, values)
    return figures


def compared(records: list[Record]) -> Values:
    """Results that more than one engine computed, in order of methods as first seen and of settings."""
    found: Values = {}
    for record in records:
        stages = stages_of(record)
        if len(stages) == 1 and setting(record):
            fields, technique = stages[0].get("fields", {}), record["technique"]
            method = fields.get("method", "sparsegpt") if technique in PEERS else technique
            found.setdefault((method, setting(record), PEERS.get(technique, OURS)), record)
    engines: dict[str, set[str]] = {}
    for method, _, engine in found:
        engines.setdefault(method, set()).add(engine)
    return {key: record for key, record in sorted(found.items()) if len(engines[key[0]]) > 1}


def setting(record: Record) -> str | None:
    """`0.5`, `2:4`, `4 bits` or `4 bits, groups of 64`; None where a technique has none of them."""
    if record.get("pattern") not in (None, "unstructured"):
        return record["pattern"]
    if record.get("ratio") is not None:
        return f"{record['ratio']:g}"
    fields = stages_of(record)[0].get("fields", {})
    if fields.get("bits") is None:
        return None
    return f"{fields['bits']} bits" + (f",\ngroups of {fields['group_size']}" if fields.get("group_size") else "")


def _figure(panel: Panel, values: Values) -> Figure:
    field = panel.field
    methods = sorted(
        {method for method, _, _ in values}, key=lambda method: ("bits" in _settings(values, method)[0], method)
    )
    settings = [_settings(values, method) for method in methods]
    figure = new_figure(PAGE_INCHES, 3.6)
    widths = [len(found) + 0.6 for found in settings]
    grid = figure.subplots(2, len(methods), sharex="col", sharey="row", squeeze=False, width_ratios=widths)
    time = COMPRESS_SECONDS
    rows = ((field, panel.quantity.axis()), (time.field, f"{time.label}\n(log scale)"))
    for row, (shown_field, label) in zip(grid, rows, strict=True):
        for axes, method, places in zip(row, methods, settings, strict=True):
            _draw(axes, shown_field, values, method, places)
        shown = [record[shown_field] for record in values.values() if record.get(shown_field)]
        log_axis(row[0], shown)
        row[0].set_ylabel(label)
    for axes, method, places in zip(grid[0], methods, settings, strict=True):
        axes.set_title(method)
        axes.set_xticks(range(len(places)), places)
        axes.set_xlim(-0.5, len(places) - 0.5)
    for name, record in dense(panel.records, field).items():
        for axes in grid[0]:
            axes.axhline(
                record[field], color="black", linestyle="--", linewidth=0.8, label=f"{name} ({record[field]:.4g})"
            )
    figure.suptitle(panel.title, x=0.01, ha="left", fontsize=7.5)
    footnote(figure, panel.protocol)
    place_legend(figure, grid[0][0], None, is_below=True)
    return figure


def _settings(values: Values, method: str) -> list[str]:
    """The settings of a method, ratios first."""
    return sorted({setting for name, setting, _ in values if name == method}, key=lambda word: (":" in word, word))


def _draw(axes: Axes, quantity: str, values: Values, method: str, places: list[str]) -> None:
    for place, engine in enumerate(ENGINES):
        points = [
            (at + STEP * (place - (len(ENGINES) - 1) / 2), values[method, word, engine][quantity])
            for at, word in enumerate(places)
            if (values.get((method, word, engine)) or {}).get(quantity) is not None
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, linestyle="", color=COLOURS[place], marker=MARKERS[place], label=engine)
