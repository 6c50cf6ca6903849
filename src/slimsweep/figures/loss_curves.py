"""Validation loss over the steps of training: one file per chain and kind of loss, one line per record."""

from typing import Any

from matplotlib.figure import Figure

from slimsweep.figures.kinds import stages_of, training_of
from slimsweep.figures.series import file_word
from slimsweep.figures.style import appearances, new_figure, place_legend
from slimsweep.records.points import Record, distinctions

SWEEPS = ("recovery", "distillation", "domain", "workflow")

Curve = tuple[str, list[dict[str, Any]], str | None]
"""Label, points, and the reason why training ended early."""


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`loss_curves_<chain>`: losses of different kinds never share an axis. A cross marks an early end."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for record, settings in zip(records, distinctions(records), strict=True):
        for stage in stages_of(record):
            if training := training_of(stage):
                points = [one for one in training["curve"] if one.get("validation_loss") is not None]
                label = ", ".join(word for word in (_place(record), settings) if word)
                chain = " ".join([record["model"], record["technique"], stage["name"], _losses(stage)]).strip()
                groups.setdefault((chain, stage["name"]), []).append((label, points, training.get("stopped")))
    return {f"loss_curves_{file_word(chain)}": _figure(chain, name, curves) for (chain, name), curves in groups.items()}


def _losses(stage: dict[str, Any]) -> str:
    """Kinds of loss of a stage, where it has a choice of them."""
    given = stage.get("fields", {}).get("losses")
    return " ".join(f"{name}-{weight:g}" for name, weight in given.items()) if given else ""


def _place(record: Record) -> str:
    words = [f"ratio {record['ratio']:g}"] if record.get("ratio") is not None else []
    return ", ".join([*words, f"seed {record['seed']}"] if record.get("seed") is not None else words)


def _figure(chain: str, name: str, curves: list[Curve]) -> Figure:
    figure = new_figure(height=2.6)
    axes = figure.add_subplot()
    labels = [label or name for label, _, _ in curves]
    for (_, points, stopped), label, look in zip(curves, labels, appearances(labels), strict=True):
        x, y = [point["step"] for point in points], [point["validation_loss"] for point in points]
        axes.plot(x, y, label=label, **look)
        if stopped and points:
            axes.plot(x[-1:], y[-1:], linestyle="", marker="x", color="black", markersize=6)
    axes.set_xlabel(f"step of {name}")
    axes.set_ylabel("validation loss (nats)")
    axes.set_title(chain, loc="left")
    ended = any(stopped for _, _, stopped in curves)
    place_legend(figure, axes, "cross: ended before its budget" if ended else None, is_below=len(curves) > 3)
    return figure
