"""Panels of a dashboard, chosen from the quantities that records hold. Plain values: no tracker's package is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slimsweep.checks import is_number
from slimsweep.evaluation.quantity import Quantity
from slimsweep.figures.series import DENSE
from slimsweep.records.points import Record
from slimsweep.records.quantities import in_group, of_kind
from slimsweep.records.tracking.published import training_curves

TECHNIQUE = "technique"
"""Key of a run's config by which lines are grouped."""
RATIO, STEP = "ratio", "step"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart. Its keys are those under which trackers publish records."""

    kind: Literal["line", "scatter", "bar"]
    """line: logged points of runs; scatter: a point for each run; bar: a bar for each run."""
    title: str
    x: str = ""
    """Key of the horizontal axis; empty for bars."""
    y: tuple[str, ...]
    x_title: str = ""
    y_title: str
    has_log_y: bool = False
    group_by: str = ""
    """Key of the config whose values become one line each, with the range of their runs; empty: a line for each run."""
    front: Literal["", "lowest", "highest"] = ""
    """Line of the best y so far from the left, which is the Pareto front; empty: none."""


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    name: str
    panels: tuple[Panel, ...]


def sections(records: Sequence[Record]) -> list[Section]:
    """Sections that the records of one model can fill; a section without a measured quantity is left out."""
    qualities = _measured(records, in_group(records, "quality"))
    sizes, work = (_measured(records, of_kind(records, kind)) for kind in ("size", "work"))
    leading = _measured(records, of_kind(records, "perplexity")) or qualities
    memory = [one for one in _measured(records, in_group(records, "cost")) if one.unit == "bytes" and one not in sizes]
    fidelity = [one for kind in ("kl", "top_agreement") for one in _measured(records, of_kind(records, kind))]
    named = {
        "Quality over ratio": [panel for one in qualities for panel in _over_ratio(records, one)],
        "Pareto": [_pareto(cost, one) for one in leading for cost in (*sizes, *work)],
        "Memory and GMacs": [panel for one in (*sizes, *memory, *work) for panel in _over_ratio(records, one)],
        "Fidelity to the dense model": [panel for one in fidelity for panel in _over_ratio(records, one)],
        "Loss curves of training": _losses(records),
    }
    return [Section(name, tuple(panels)) for name, panels in named.items() if panels]


def _measured(records: Sequence[Record], quantities: Sequence[Quantity]) -> list[Quantity]:
    """Quantities of which some record has a number; a key without one would make an empty panel."""
    return [one for one in quantities if any(is_number(record.get(one.field)) for record in records)]


def _over_ratio(records: Sequence[Record], one: Quantity) -> list[Panel]:
    """A line for each technique over the ratio, and a bar for each run where some technique has none.

    Bars show every run that has the quantity, those with a ratio too: W&B filters the runs of a workspace, not those of
    one panel.
    """
    measured = [record for record in records if is_number(record.get(one.field)) and record["technique"] != DENSE]
    shared = {"y": (one.field,), "y_title": one.axis(), "has_log_y": one.scale == "log"}
    panels = []
    if any(record.get(RATIO) is not None for record in measured):
        title = f"{one.title} over ratio"
        line = Panel(
            kind="line", title=title, x=RATIO, x_title="ratio of weights removed", group_by=TECHNIQUE, **shared
        )
        panels.append(line)
    if not panels or any(record.get(RATIO) is None for record in measured):
        panels.append(Panel(kind="bar", title=f"{one.title} of each run", y=(one.field,), y_title=one.axis()))
    return panels


def _pareto(cost: Quantity, one: Quantity) -> Panel:
    return Panel(
        kind="scatter",
        title=f"{one.title} over {cost.title}",
        x=cost.field,
        y=(one.field,),
        x_title=cost.axis(),
        y_title=one.axis(),
        has_log_y=one.scale == "log",
        front={True: "highest", False: "lowest", None: ""}[one.higher_is_better],
    )


def _losses(records: Sequence[Record]) -> list[Panel]:
    """A panel for each loss of each stage that trained: a line for each run, since runs differ in more than a seed."""
    keys: dict[tuple[str, str], None] = {}
    for record in records:
        for stage, points in training_curves(record).items():
            keys |= {(stage, name): None for point in points for name in point if name != STEP}
    return [
        Panel(
            kind="line",
            title=f"{name.replace('_', ' ')} of {stage}",
            x=f"{stage}/{STEP}",
            y=(f"{stage}/{name}",),
            x_title="optimizer step",
            y_title=f"{name.replace('_', ' ')} (nats)",
        )
        for stage, name in keys
    ]
