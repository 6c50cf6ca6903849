"""Bubble chart of eight categories: dense (two models), unstructured and structured, each also quantized.

Height is a quality on a log axis. The area of a bubble is time or bytes. x is the category, and the ratio within it.
"""

import itertools
import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from slimsweep.evaluation.quantity import Quantity
from slimsweep.figures.kinds import is_pruned, is_quantized, is_structured
from slimsweep.figures.series import (
    DENSE,
    by_device,
    distinguished,
    file_word,
    log_quality,
    model_label,
    protocol_label,
    protocol_of,
    shown,
    variants,
)
from slimsweep.figures.style import (
    COLOURS,
    LEGEND_ROW_INCHES,
    PAGE_INCHES,
    Look,
    footnote,
    legend_columns,
    log_axis,
    new_figure,
    plain_number,
    scaled,
)
from slimsweep.records.points import Record
from slimsweep.records.quantities import quantity

SWEEPS = ("eight_categories",)

PRUNED = ("unstructured", "unstructured\nquantized", "structured", "structured\nquantized")
DENSE_MODELS = 2
QUANTIZED = "\nquantized"

BLUE, VERMILION, GREEN, PINK, SKY, ORANGE, GREY = COLOURS
DENSE_COLOURS = ("#000000", GREY, GREEN, PINK)
PRUNED_COLOURS = (BLUE, SKY, VERMILION, ORANGE)

SHAPES = {"o": 4 / math.pi, "s": 1.0, "D": 1.0, "^": 2.0, "v": 2.0}
"""Markers, each with the `s` of matplotlib's scatter that gives it an area of one square point."""
AREAS_INCHES = 2.3
"""Width of the legend that explains the areas."""
LARGEST_AREA = 200.0
"""Square points of the largest bubble."""
SPREAD = 0.34
"""Distance of the smallest and of the largest ratio from the middle of their category; categories are 1 apart."""
TOKENIZERS = "Tokenizers differ: values compare within one model only."


@dataclass(frozen=True)
class Chart:
    """Records of one figure: `quality` is their height, `size` their area."""

    quality: Quantity
    size: Quantity
    protocol: str
    records: list[Record]

    @property
    def field(self) -> str:
        """The record field of the height."""
        return self.quality.field

    @cached_property
    def names(self) -> dict[str, str]:
        """Name of each model by label, smallest model first. Names are as short as they can be and still differ."""
        parameters: dict[str, int] = {}
        for one in self.records:
            label = model_label(one)
            parameters[label] = max(parameters.get(label, 0), one.get("parameters") or 0)
        models = {model_label(one): one["model"].rsplit("/", 1)[-1] for one in self.records}
        alone = {label for label, name in models.items() if list(models.values()).count(name) == 1}
        ranked = sorted(parameters, key=lambda label: (parameters[label], label))
        return {label: models[label] if label in alone else label for label in ranked}

    @cached_property
    def categories(self) -> list[str]:
        """Categories in order of x: dense and quantized for each dense model (at least two), then the pruned ones."""
        measured = {model_label(one) for one in self.records if not is_pruned(one)}
        dense = [name for label, name in self.names.items() if label in measured]
        dense += [f"model {place + 1}" for place in range(len(dense), DENSE_MODELS)]
        return [f"dense\n{name}{kind}" for name in dense for kind in ("", QUANTIZED)] + list(PRUNED)

    def category(self, record: Record) -> str:
        """The category a record belongs to."""
        kind = QUANTIZED if is_quantized(record) else ""
        if is_pruned(record):
            return f"{'structured' if is_structured(record) else 'unstructured'}{kind}"
        return f"dense\n{self.names[model_label(record)]}{kind}"

    def colour(self, category: str) -> str:
        """The colour of a category."""
        if category in PRUNED:
            return PRUNED_COLOURS[PRUNED.index(category)]
        return DENSE_COLOURS[self.categories.index(category) % len(DENSE_COLOURS)]

    def drawn_size(self, value: int | float, marker: str) -> float:
        """`s` of matplotlib's scatter for a marker whose area represents a value."""
        return SHAPES[marker] * LARGEST_AREA * value / max(one[self.size.field] for one in self.records)

    @cached_property
    def variants(self) -> dict[str, dict[str, list[Record]]]:
        """Records of each category by variant: technique, settings and, if there are several models, the model."""
        found: dict[str, dict[str, list[Record]]] = {category: {} for category in self.categories}
        for model, name in self.names.items():
            own = [one for one in self.records if model_label(one) == model]
            for variant, members in sorted(variants(own).items()):
                label = f"{variant} ({name})" if len(self.names) > 1 else variant
                for one in members:
                    found[self.category(one)].setdefault(label, []).append(one)
        return found

    def x(self, record: Record, variant: str) -> float:
        """Position of a record on x: within its category by ratio; records without a ratio stand side by side."""
        category = self.category(record)
        place, beside = self.categories.index(category), list(self.variants[category])
        if record.get("ratio") is None:
            return place + 2 * SPREAD * ((beside.index(variant) + 0.5) / len(beside) - 0.5)
        ratios = [one["ratio"] for one in self.records if one.get("ratio") is not None]
        low, high = min(ratios), max(ratios)
        return place + SPREAD * (2 * (record["ratio"] - low) / (high - low) - 1 if high > low else 0)


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`bubble_time_<corpus>` and `bubble_bytes_<corpus>`: one bubble per record.

    Different models share one axis in this figure only, since it compares the eight categories. If their tokenizers
    differ, the title says that values compare within one model only. Protocols that differ in anything else get files
    of their own, and so do times of different devices. A category without records says "not run".
    """
    return {
        f"bubble_{stem}": _figure(chart)
        for quality, name in shown(records, log_quality)
        for stem, chart in _charts(records, quality, name)
        if any(one.get(quality.field) is not None and one["technique"] != DENSE for one in chart.records)
    }


def _charts(records: list[Record], quality: Quantity, name: str) -> Iterator[tuple[str, Chart]]:
    """Charts of a corpus, each with the end of its file stem: one of time per device, one of bytes."""
    time, size = quantity(quality.seconds, records), quantity("weight_bytes", records)
    for more, protocol, members in _comparable(records, quality.field):
        for place, here in by_device(one for one in members if one.get(time.field) is not None).items():
            suffix = f"{name}{more}" + (f"_{file_word(place)}" if place else "")
            yield f"time_{suffix}", Chart(quality, time, protocol, here)
        sized = [one for one in members if one.get(size.field) is not None]
        yield f"bytes_{name}{more}", Chart(quality, size, protocol, sized)


def _comparable(records: list[Record], field: str) -> Iterator[tuple[str, str, list[Record]]]:
    """Group records by protocol, tokenizer ignored; gives the end of the file stem, protocol and records of each."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        protocol = protocol_of(record, field)
        if protocol is not None and (record["technique"] == DENSE or is_pruned(record) or is_quantized(record)):
            groups.setdefault(re.sub(r":tok=[^:]*", "", protocol), []).append(record)
    others = distinguished(set(groups))
    for protocol, members in sorted(groups.items()):
        more = f"_{file_word(others[protocol])}" if len(groups) > 1 else ""
        yield more, protocol, members


def _figure(chart: Chart) -> Figure:
    figure = new_figure(PAGE_INCHES, 3.4)
    axes = figure.add_subplot()
    log_axis(axes, [one[chart.field] for one in chart.records if one.get(chart.field) is not None])
    for place, (category, found) in enumerate(chart.variants.items()):
        look = {"color": chart.colour(category)}
        if not found:
            middle = {"transform": axes.get_xaxis_transform(), "ha": "center", "style": "italic"}
            axes.text(place, 0.5, "not run", color=GREY, **middle)
        for (variant, members), shape in zip(found.items(), itertools.cycle(SHAPES)):
            for one in sorted(members, key=lambda one: -one[chart.size.field]):
                _bubble(axes, chart, one, chart.x(one, variant), look | {"marker": shape})
    axes.set_xlim(-0.5, len(chart.categories) - 0.5)
    rows = [[row for line in name.split("\n") for row in textwrap.wrap(line, 13)] for name in chart.categories]
    axes.set_xticks(range(len(rows)), ["\n".join(words) for words in rows])
    axes.tick_params(axis="x", length=0, labelsize=7 * 8 / len(rows))
    axes.grid(False, axis="x")
    axes.set_ylabel(chart.quality.axis())
    axes.set_title("\n".join(textwrap.wrap(_title(chart), 105)), loc="left")
    low, high = axes.get_ylim()
    axes.set_ylim(low / (high / low) ** 0.06, high)  # room for the number below the lowest bubble
    _legends(figure, chart)
    footnote(figure, chart.protocol)
    return figure


def _title(chart: Chart) -> str:
    has_tokenizers = {protocol_of(one, chart.field) for one in chart.records}
    text = f"{'; '.join(chart.names)}; {protocol_label(chart.protocol)}"
    return f"{text}. {TOKENIZERS}" if len(has_tokenizers) > 1 else text


def _bubble(axes: Axes, chart: Chart, record: Record, x: float, look: Look) -> None:
    """One record with its ratio below it; a hollow triangle at the upper edge where the value overflowed."""
    value = record.get(chart.field)
    if value is None:
        edge = {"transform": axes.get_xaxis_transform(), "clip_on": False, "markerfacecolor": "white"}
        axes.plot([x], [1.0], marker="^", linestyle="", markeredgecolor=look["color"], **edge)
        return
    size = chart.drawn_size(record[chart.size.field], look["marker"])
    axes.scatter([x], [value], s=size, marker=look["marker"], color=look["color"], alpha=0.55, clip_on=False)
    if record.get("ratio") is not None:
        below = {"xytext": (0, -math.sqrt(size) / 2 - 1), "textcoords": "offset points", "ha": "center", "va": "top"}
        axes.annotate(f"{record['ratio']:g}", (x, value), fontsize=5.5, **below)


def _legends(figure: Figure, chart: Chart) -> None:
    """Draw two legends below the axes: shape and colour of each chain, and the scale of the areas."""
    look = {"linestyle": "", "markersize": 4.5, "alpha": 0.7}
    chains = [
        Line2D([], [], color=chart.colour(category), marker=shape, label=variant, **look)
        for category, found in chart.variants.items()
        for variant, shape in zip(found, itertools.cycle(SHAPES))
        if any(one["technique"] != DENSE for one in found[variant])
    ]
    values = [one[chart.size.field] for one in chart.records]
    divisor, unit = scaled(chart.size.unit, values)
    unit = unit.strip(" ()")
    shown = dict.fromkeys(round_down(max(values) / divisor / part) for part in (1, 4, 16))
    areas = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color="black",
            markerfacecolor="none",
            label=f"{plain_number(value)} {unit}",
        )
        for value in shown
    ]
    for handle, value in zip(areas, shown, strict=True):
        handle.set_markersize(math.sqrt(chart.drawn_size(value * divisor, "o")))
    columns = legend_columns([chain.get_label() for chain in chains], 3, PAGE_INCHES - AREAS_INCHES)
    shared, area = {"alignment": "left", "title_fontsize": 7}, f"area: {chart.size.label}"
    figure.legend(handles=chains, loc="outside lower left", ncols=columns, title="number: ratio", **shared)
    figure.legend(handles=areas, loc="outside lower right", ncols=3, title=area, handleheight=2.2, **shared)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * (2 + max(2, math.ceil(len(chains) / columns))))


def round_down(value: float) -> float:
    """Round down to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= value)
