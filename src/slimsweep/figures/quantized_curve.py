"""Quality on a log axis against ratio, with and without quantization: one file per corpus."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimsweep.figures.kinds import is_pruned, is_quantized, is_structured, prunes, quantizes, stages_of
from slimsweep.figures.ratio_curve import draw_line, mark_overflow, seeds_note
from slimsweep.figures.series import DENSE, Line, Panel, Point, dense, lines, log_quality, panels, variants
from slimsweep.figures.style import COLOURS, Look, log_axis, new_figure, paper_title, place_legend
from slimsweep.records.points import Record

SWEEPS = ("quantized",)

ZEROED_MARKERS = ("o", "^", "v", "D", "P")
REMOVED_MARKERS = ("s", "X", "<", ">", "d")

NOTE = "dashed: parts removed; stars: nothing removed"


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`quantized_curve_<corpus>`: colour tells the quantizer, marker and dashes what was removed, stars at 0 are whole.

    A chain has the colour of its quantizer and the marker of its pruner. Two lines of one marker show the cost of
    quantization, two lines of one colour the cost of pruning. Chains without a place on the ratio are left out: those
    whose stages have different ratios, and those that neither prune nor quantize (`half`).
    """
    return {f"quantized_curve_{panel.stem}": _figure(panel) for panel in compared_panels(records)}


def compared_panels(records: list[Record]) -> list[Panel]:
    """Panels of quality with a log axis that have both quantized and pruned models to show."""
    return [panel for panel in panels(records, log_quality) if is_compared(panel.records, panel.field)]


def is_compared(records: Sequence[Record], field: str) -> bool:
    """Whether some record with a place tells `field` of a quantized model, and some of a pruned one."""
    shown = placed(records, field)
    return any(map(is_quantized, shown)) and any(map(is_pruned, shown))


def placed(records: Sequence[Record], field: str) -> list[Record]:
    """Records that measured `field` and have a place: pruned by one ratio, or at 0 as dense or quantized only."""
    measured = [record for record in records if record.get(field) is not None]
    return [
        record
        for record in measured
        if (
            record.get("ratio") is not None
            if is_pruned(record)
            else record["technique"] == DENSE or is_quantized(record)
        )
    ]


def _figure(panel: Panel) -> Figure:
    figure = new_figure(height=2.8)
    axes = figure.add_subplot()
    drawn, values = draw_over_ratio(axes, panel.records, panel.field, looks(panel.records))
    log_axis(axes, values)
    ratio_axis(axes, panel.records)
    axes.set_xlabel("ratio of weights removed")
    axes.set_ylabel(panel.quantity.axis())
    paper_title(axes, panel)
    note = seeds_note(drawn)
    place_legend(figure, axes, f"{NOTE}\n{note}" if note else NOTE, is_below=True)
    return figure


def draw_over_ratio(
    axes: Axes, records: Sequence[Record], field: str, look: Callable[[Record], Look]
) -> tuple[list[Line], list[float]]:
    """Lines of the pruned chains and stars at 0 of those that remove nothing; returns lines and every y drawn."""
    pruned = [record for record in records if is_pruned(record)]
    first = {label: members[0] for label, members in variants(pruned).items()}
    drawn = lines(pruned, "ratio", field)
    appearance = [look(first[line.label]) for line in drawn]
    whole = whole_models(records, field)
    appearance_whole = [look(line.points[0].records[0]) for line in whole]
    values = []
    for line, own in zip([*drawn, *whole], [*appearance, *appearance_whole], strict=True):
        values += draw_line(axes, line, own)
    mark_overflow(axes, drawn, appearance)
    return [*drawn, *whole], values


def whole_models(records: Sequence[Record], field: str) -> list[Line]:
    """The dense model and its quantized forms, each a line of one point at ratio 0."""
    plain = [
        Line(label, (Point(0.0, record[field], 0.0, 1, (record,)),), ())
        for label, record in dense(records, field).items()
    ]
    quantized = [record | {"ratio": 0.0} for record in records if is_quantized(record) and not is_pruned(record)]
    return [line for line in [*plain, *lines(quantized, "ratio", field)] if line.points]


def ratio_axis(axes: Axes, records: Sequence[Record]) -> None:
    """x from a little below 0, where the stars are, to a little above the largest ratio."""
    largest = max(record.get("ratio") or 0.0 for record in records)
    axes.set_xlim(-0.03, largest + 0.03)
    axes.set_xticks([tick / 10 for tick in range(11) if tick / 10 < largest + 0.03])


def looks(records: Sequence[Record]) -> Callable[[Record], Look]:
    """Look of a record: colour by quantizer, marker and dashes by what was removed, a star for nothing."""
    quantizers = sorted({"", *map(_quantizer, records)})  # none comes first
    zeroed = sorted({_pruner(record) for record in records if is_pruned(record) and not is_structured(record)})
    removed = sorted({_pruner(record) for record in records if is_structured(record)})

    def look(record: Record) -> Look:
        colour = COLOURS[quantizers.index(_quantizer(record)) % len(COLOURS)]
        if not is_pruned(record):
            star = {"marker": "*", "markersize": 9, "markeredgecolor": "white", "markeredgewidth": 0.4}
            return {"color": colour, "linestyle": "", **star}
        names, markers = (removed, REMOVED_MARKERS) if is_structured(record) else (zeroed, ZEROED_MARKERS)
        marker = markers[names.index(_pruner(record)) % len(markers)]
        return {"color": colour, "marker": marker, "linestyle": "--" if is_structured(record) else "-"}

    return look


def _quantizer(record: Record) -> str:
    """Signature of a quantization: its stages, their knobs, and whether it came first; empty for none."""
    stages = stages_of(record)
    names = [_name_and_knobs(stage) for stage in stages if quantizes(stage)]
    if names and is_pruned(record) and not prunes(next(stage for stage in stages if quantizes(stage) or prunes(stage))):
        names.append("first")
    return json.dumps(names) if names else ""


def _pruner(record: Record) -> str:
    """Signature of a pruning, whatever quantizer is in the chain."""
    others = [stage for stage in stages_of(record) if prunes(stage) or not quantizes(stage)]
    return json.dumps([record.get("pattern"), *map(_name_and_knobs, others)])


def _name_and_knobs(stage: dict[str, Any]) -> list[Any]:
    knobs = {name: value for name, value in stage.get("fields", {}).items() if name != "ratio"}
    return [stage["name"], json.dumps(knobs, sort_keys=True, default=str)]
