"""Sensitivity to calibration data: quality over corpus, number of sequences, their length, and seed.

Each panel varies one factor and holds the others at their defaults.
"""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.series import Panel, baselines_of, log_quality, panels
from slimsweep.figures.style import (
    PAGE_INCHES,
    appearances,
    log_axis,
    new_figure,
    paper_title,
    place_legend,
)
from slimsweep.records.points import Record

SWEEPS = ("calibration",)

FACTORS = {"corpus": "text", "sequences": "sequences", "tokens": "tokens of a sequence", "seed": "draw (seed)"}
"""Factors of a calibration, and the labels of their axes."""
NUMBERS = ("sequences", "tokens")
"""Factors with a logarithmic axis. The axis of the others is categorical."""

SHIFT = 0.08

Setting = dict[str, Any]
"""Value of each factor."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`calibration_<corpus>`: four panels with one line per technique.

    Error bars at the default: ±1 standard deviation over seeds.
    """
    figures = {}
    for panel in panels(records, log_quality):
        calibrated = {
            technique: found for technique, found in _by_technique(panel).items() if len(_settings(found)) > 1
        }
        if calibrated:
            figures[f"calibration_{panel.stem}"] = _figure(panel, calibrated)
    return figures


def setting_of(record: Record) -> Setting:
    """Value of each factor of a record's calibration."""
    calibration = (record.get("config") or {}).get("calibration") or {}
    return {name: record.get("seed") if name == "seed" else calibration.get(name) for name in FACTORS}


def default_of(records: Sequence[Record]) -> Setting:
    """Default of each factor, taken as its most common value in the records."""
    settings = [setting_of(record) for record in records]
    return {name: Counter(setting[name] for setting in settings).most_common(1)[0][0] for name in FACTORS}


def varied(records: Sequence[Record], factor: str, default: Setting) -> dict[Any, Record]:
    """Records by their value of one factor, sorted; all other factors have their default."""
    fitting = {
        setting[factor]: record
        for record in records
        for setting in [setting_of(record)]
        if all(setting[name] == default[name] for name in FACTORS if name != factor)
    }
    if factor == "corpus":  # the default first
        return dict(sorted(fitting.items(), key=lambda item: (item[0] != default[factor], item[0])))
    return dict(sorted(fitting.items()))


def _by_technique(panel: Panel) -> dict[str, list[Record]]:
    """Records that used calibration text and measured the quality, by technique."""
    found: dict[str, list[Record]] = {}
    for record in panel.records:
        if record.get("seed") is not None and record.get(panel.field) is not None:
            found.setdefault(record["technique"], []).append(record)
    return dict(sorted(found.items()))


def _settings(records: Sequence[Record]) -> set[tuple]:
    return {tuple(setting_of(record).values()) for record in records}


def _figure(panel: Panel, techniques: dict[str, list[Record]]) -> Figure:
    figure = new_figure(width=PAGE_INCHES, height=4.6)
    every = figure.subplots(2, 2, sharey=True).flat
    default = default_of([record for records in techniques.values() for record in records])
    values = [record[panel.field] for records in techniques.values() for record in records]
    for axes, factor in zip(every, FACTORS, strict=True):
        _draw(axes, panel, techniques, factor, default)
        log_axis(axes, values)
        axes.label_outer()
        axes.set_xlabel(f"{FACTORS[factor]} (default: {default[factor]})")
        axes.tick_params(labelbottom=True)
    for label, value in baselines_of(panel).items():  # far below the curves: given only in the legend
        figure.axes[0].plot([], [], "k--", linewidth=0.9, label=f"{label} ({panel.quantity.text(value)})")
    figure.axes[0].set_ylabel(panel.quantity.axis())
    figure.axes[2].set_ylabel(panel.quantity.axis())
    paper_title(figure.axes[0], panel)
    place_legend(figure, figure.axes[0], None, is_below=True)
    return figure


def _draw(axes: Axes, panel: Panel, techniques: dict[str, list[Record]], factor: str, default: Setting) -> None:
    """Draw one factor: a line per technique, with the deviation over seeds as an error bar at the default."""
    found = {technique: varied(records, factor, default) for technique, records in techniques.items()}
    places = list(dict.fromkeys(value for points in found.values() for value in points))
    looks = appearances(list(found))
    for number, ((technique, points), look) in enumerate(zip(found.items(), looks, strict=True)):
        shift = SHIFT * (number - (len(found) - 1) / 2)  # categorical axis: marks side by side
        x = [value if factor in NUMBERS else places.index(value) + shift for value in points]
        y = [record[panel.field] for record in points.values()]
        axes.plot(x, y, label=technique, linestyle="-" if factor in NUMBERS else "", **look)
        seeds = [record[panel.field] for record in varied(techniques[technique], "seed", default).values()]
        if factor != "seed" and len(seeds) > 1 and default[factor] in points:
            place = default[factor] if factor in NUMBERS else places.index(default[factor]) + shift
            mean, deviation = statistics.fmean(seeds), statistics.stdev(seeds)
            axes.errorbar([place], [mean], yerr=[deviation], color=look["color"], capsize=2.5, elinewidth=0.9)
    if factor in NUMBERS:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(places), [str(value) for value in sorted(places)])
        axes.minorticks_off()
    else:
        axes.set_xticks(range(len(places)), [str(value).replace("_", "\n") for value in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
