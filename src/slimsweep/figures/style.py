"""Style of every figure: size, colours, ticks, and files that are equal byte for byte for equal records."""

import logging
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from slimsweep.atomic import whole_file
from slimsweep.figures.series import Panel

COLUMN_INCHES = 3.4
"""Width of one column of a two-column paper; figures are drawn at their printed size."""
PAGE_INCHES = 7.0
LEGEND_ROW_INCHES = 0.15
LEGEND_MARK_INCHES = 0.45
"""Width of the piece of line before a label, with the gaps around it."""
LETTER_INCHES = 0.055
"""Mean width of a letter of a legend."""
FOOTNOTE_SIZE, FOOTNOTE_INCHES, FOOTNOTE_LETTERS = 4.5, 0.08, 28
"""Points of a footnote's letters, height of its lines, and letters in an inch of a line."""

# Okabe & Ito, "Color Universal Design" (2008): told apart with any common colour blindness. Without yellow,
# which is too pale for lines on white; black is the dense model's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5F5F5F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

Look = dict[str, Any]
"""Keywords of a line for matplotlib: color, marker, and what else tells it from others."""

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "legend.fontsize": 7,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.handlelength": 2.4,
    "text.parse_math": False,  # a `$` or `_` in a model's name is no formula
    "pdf.fonttype": 42,
    "svg.hashsalt": "slimsweep",
    "savefig.dpi": 300,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw and save inside: neither a user's matplotlibrc nor an earlier figure changes the outcome."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells each table of a font it leaves out
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def new_figure(width: float = COLUMN_INCHES, height: float = 2.5) -> Figure:
    """An empty figure of the given size in inches, its parts placed so that nothing overlaps."""
    return Figure(figsize=(width, height), layout="constrained")


def appearances(labels: Sequence[str]) -> list[Look]:
    """Colour and marker of each line: a colour per technique (the label's first word), a marker per variant.

    Lines of different techniques differ in both, so that a print in grey stays readable.
    """
    techniques = list(dict.fromkeys(re.split("[ ,]", label)[0] for label in labels))
    looks, seen = [], dict.fromkeys(techniques, 0)
    for label in labels:
        technique = re.split("[ ,]", label)[0]
        place = techniques.index(technique)
        marker = MARKERS[(place + seen[technique]) % len(MARKERS)]
        looks.append({"color": COLOURS[place % len(COLOURS)], "marker": marker})
        seen[technique] += 1
    return looks


def log_axis(axes: Axes, values: Sequence[float], axis: Axis | None = None) -> None:
    """Make y (or the given axis) logarithmic with plain numbers as ticks; finer steps where the values span little.

    Without a positive value the axis stays as it is.
    """
    axis = axis or axes.yaxis
    positive = [value for value in values if value > 0]
    if not positive:
        return
    low, high = min(positive), max(positive)
    margin = (high / low) ** 0.06 if high > low else 1.1
    set_scale, set_limits = (axes.set_xscale, axes.set_xlim) if axis is axes.xaxis else (axes.set_yscale, axes.set_ylim)
    set_scale("log")
    set_limits(low / margin, high * margin)
    axis.set_major_locator(FixedLocator(log_ticks(low / margin, high * margin)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(float(value))))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from `low` to `high` for a logarithmic axis, as many as fit without crowding.

    Equal steps below a factor of about two, 1-2-5 and the like above, every n-th decade over many.
    """
    if high / low < 2.2:
        start = 10.0 ** math.floor(math.log10(high - low))
        steps = [start * size for size in (2, 1, 0.5, 0.2, 0.1)]
        ladders = [[step * i for i in range(math.ceil(low / step), int(high / step) + 1)] for step in steps]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ladders = [[10.0**power for power in decades if power % step == 0] for step in (100, 50, 20, 10, 4, 3, 2)]
        for digits in (
            (1,),
            (1, 3),
            (1, 2, 5),
            (1, 1.5, 2, 3, 5, 7),
            (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
            range(1, 10),
        ):
            ladders.append([digit * 10.0**power for power in decades for digit in digits])
    inside = [[round(tick, 12) for tick in ladder if low <= tick <= high] for ladder in ladders]
    return max((ticks for ticks in inside if len(ticks) <= most), key=len)


def plain_number(value: int | float) -> str:
    """`10`, `2.5`, `1,000`; powers of ten only from a million on."""
    if value >= 1e6:
        mantissa, power = f"{value:.0e}".split("e")
        return f"{'' if mantissa == '1' else mantissa + '·'}10{str(int(power)).translate(SUPERSCRIPTS)}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def scaled(unit: str, values: Sequence[int | float]) -> tuple[int | float, str]:
    """Divisor and unit of an axis: GiB or MiB for bytes, billions or millions for parameters, else as it is."""
    largest = max(values, default=0)
    if unit == "bytes":
        return (2**30, " (GiB)") if largest >= 2**30 else (2**20, " (MiB)")
    if unit == "parameters":
        return (
            (1e9, " (billions)")
            if largest >= 1e9
            else (1e6, " (millions)")
            if largest >= 1e6
            else (1e3, " (thousands)")
        )
    return 1, f" ({unit})" if unit else ""


def paper_title(axes: Axes, panel: Panel) -> None:
    """A left-aligned title, wrapped so that it stays within one column, and the protocol as a footnote."""
    rows = [row for line in panel.title.split("\n") for row in textwrap.wrap(line, 42)]
    axes.set_title("\n".join(rows), loc="left")
    footnote(axes.figure, panel.protocol)


def footnote(figure: Figure, text: str) -> None:
    """Give a figure a footnote: `save` writes it below everything else."""
    figure.set_label(text)


def place_legend(figure: Figure, axes: Axes, note: str | None, is_below: bool = False) -> None:
    """A legend where it covers least, or below the axes once it is long; `note` is its heading.

    Below, the figure grows by what the legend takes, so that the axes keep their size. What only other axes of the
    figure show is told too.
    """
    every = [zip(*part.get_legend_handles_labels(), strict=True) for part in (axes, *figure.axes, axes)]
    entries = {label: handle for part in every for handle, label in part}
    handles, labels = list(entries.values()), list(entries)
    look = {"title": note, "title_fontsize": 7, "alignment": "left"}
    if len(labels) <= 6 and not is_below:
        axes.legend(handles, labels, loc="best", **look)
        return
    columns = legend_columns(labels, 2, figure.get_figwidth())
    rows = math.ceil(len(labels) / columns) + (note or "").count("\n") + bool(note)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, **look)


def legend_columns(labels: Sequence[str], most: int, width: float) -> int:
    """Count the columns of a legend that fit into `width` inches, `most` at best; filled from the top."""
    if not labels:
        return 1
    for columns in range(most, 1, -1):
        rows = math.ceil(len(labels) / columns)
        longest = [max(map(len, labels[start : start + rows])) for start in range(0, len(labels), rows)]
        if sum(LEGEND_MARK_INCHES + LETTER_INCHES * letters for letters in longest) <= width:
            return columns
    return 1


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write `stem`.pdf and `stem`.png without dates or versions in them; returns both paths."""
    share = _write_footnote(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # placed once, for both files
    for legend in figure.legends:  # they stand at the edge of the figure, whatever the layout's part of it is
        legend.set_bbox_to_anchor((0, share, 1, 1 - share), transform=figure.transFigure)
    paths = []
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        paths.append(folder / f"{stem}.{suffix}")
        with whole_file(paths[-1]) as partial:
            figure.savefig(partial, format=suffix, metadata=metadata)
    return paths


def _write_footnote(figure: Figure) -> float:
    """Write a figure's footnote in lines of their own below everything; returns their part of the figure's height.

    The figure grows by them.
    """
    width, height = figure.get_size_inches()
    rows = textwrap.wrap(figure.get_label(), int(width * FOOTNOTE_LETTERS))
    if not rows:
        return 0.0
    added = (len(rows) + 0.5) * FOOTNOTE_INCHES
    figure.set_figheight(height + added)
    share = added / (height + added)
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))
    look = {"fontsize": FOOTNOTE_SIZE, "color": "0.35", "va": "top"}
    figure.text(0.01, share, "\n".join(rows), **look).set_in_layout(False)
    return share
