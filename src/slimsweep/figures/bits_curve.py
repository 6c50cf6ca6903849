"""Quality on a log axis against the bits stored for each weight: one file per corpus, one line per quantizer."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from slimsweep.figures.kinds import is_pruned, is_quantized
from slimsweep.figures.ratio_curve import draw_levels, seeds_note
from slimsweep.figures.series import Line, Panel, baselines_of, dense, lines, log_quality, panels, without
from slimsweep.figures.style import log_axis, new_figure, paper_title, place_legend
from slimsweep.records.quantities import quantity

SWEEPS = ("bits", "selective")

TICKS = (1, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 16, 24, 32)

KNOBS = ("bits", "average_bits")
"""Knobs that a place on the x axis stands for; records that differ in others are lines of their own."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`bits_curve_<corpus>`: both axes logarithmic, dense model dashed and a star at its own bits.

    Bits are what all linear layers of the blocks store, those left dense included, with scales, zero-points and
    tables: 4-bit codes stand right of 4.
    Pruned chains are left out: zeros are another saving, which `bits_per_weight` does not count.
    """
    figures = {}
    for panel in panels(records, log_quality):
        quantized = [record for record in panel.records if is_quantized(record) and not is_pruned(record)]
        drawn = lines(without(quantized, *KNOBS), "bits_per_weight", panel.field)
        if any(line.points for line in drawn):
            figures[f"bits_curve_{panel.stem}"] = _figure(panel, drawn)
    return figures


def _figure(panel: Panel, drawn: Sequence[Line]) -> Figure:
    figure = new_figure(height=2.6)
    axes = figure.add_subplot()
    draw_levels(axes, drawn, baselines_of(panel))
    whole = [record for record in dense(panel.records, panel.field).values() if record.get("bits_per_weight")]
    stars = [(record["bits_per_weight"], record[panel.field]) for record in whole]
    for bits, value in stars:
        axes.plot([bits], [value], "k*", markersize=7)
    places = [x for line in drawn for x in (*line.unmeasured, *(point.x for point in line.points))]
    bits_axis(axes, [*places, *(bits for bits, _ in stars)])
    axes.set_xlabel(quantity("bits_per_weight", panel.records).axis())
    axes.set_ylabel(panel.quantity.axis())
    paper_title(axes, panel)
    place_legend(figure, axes, seeds_note(drawn), is_below=True)
    return figure


def bits_axis(axes: Axes, bits: Sequence[float]) -> None:
    """Make x logarithmic, with ticks at the bits that quantizers have."""
    log_axis(axes, bits, axes.xaxis)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
