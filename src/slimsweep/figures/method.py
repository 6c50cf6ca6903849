"""Diagram of the parts that a chain removes from each block: one row of boxes a stage."""

import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from slimsweep.figures.style import COLOURS, PAGE_INCHES, new_figure
from slimsweep.records.points import distinctions

SWEEPS = ("structured", "structured_methods")

ROW_INCHES = 0.3


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`method_<chain>`: of each chain and variant the record of its middle ratio."""
    chains: dict[str, list[dict[str, Any]]] = {}
    for record, settings in zip(records, distinctions(records), strict=True):
        if record.get("stages"):
            chains.setdefault(" ".join([record["model"], record["technique"], settings]).strip(), []).append(record)
    models = {record["model"] for record in records}
    figures = {}
    for label, members in chains.items():
        ranked = sorted(members, key=lambda record: record.get("ratio") or 0)
        words = label if len(models) > 1 else label.split(" ", 1)[1]
        stem = re.sub(r"[^A-Za-z0-9_.]+", "-", words).strip("-")
        figures[f"method_{stem}"] = _figure(ranked[len(ranked) // 2], words)
    return figures


def _figure(record: dict[str, Any], label: str) -> Figure:
    rows = [row for stage in record["stages"] for row in rows_of(stage)]
    blocks = max([len(shares) for _, shares in rows] + [len(_shape(stage)) for stage in record["stages"]])
    figure = new_figure(width=PAGE_INCHES, height=0.9 + ROW_INCHES * len(rows))
    axes = figure.add_subplot()
    for place, (name, shares) in enumerate(reversed(rows)):
        _draw_row(axes, place, name, shares, blocks)
    axes.set_xlim(-0.5, blocks - 0.5)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xticks(range(0, blocks, 1 if blocks <= 16 else 2 if blocks <= 32 else 4))
    axes.set_xlabel("block (white: removed; full colour: kept as it was)")
    axes.grid(False)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    ratio = f", ratio {record['ratio']:g}" if record.get("ratio") is not None else ""
    axes.set_title(f"{record['model']}: {label}{ratio}", loc="left")
    return figure


def _shape(stage: dict[str, Any]) -> list[dict[str, int]]:
    """The blocks a stage began with; none where it records no shape."""
    return (stage.get("notes") or {}).get("before", {}).get("blocks", [])


def rows_of(stage: dict[str, Any]) -> list[tuple[str, list[float]]]:
    """Rows of a stage: a name, and the share kept in each block. A single share is of the whole model."""
    notes = stage.get("notes") or {}
    if "after" not in notes:
        kept = 1.0 - (stage.get("sparsity") or 0.0)
        return [(f"{stage['name']}: weights that are not zero, {kept:.0%}", [kept])]
    before, after = notes["before"], notes["after"]
    gone = [
        block for detail in notes.get("details", []) if detail["kind"] == "blocks" for block in detail.get("blocks", [])
    ]
    if len(after["blocks"]) < len(before["blocks"]):
        whole = [0.0 if index in gone else 1.0 for index in range(len(before["blocks"]))]
        return [(f"{stage['name']}: blocks, {len(after['blocks'])} of {len(before['blocks'])}", whole)]
    rows = []
    if after["channels"] < before["channels"]:
        shares = [after["channels"] / before["channels"]]
        rows.append((f"{stage['name']}: channels, {after['channels']} of {before['channels']}", shares))
    for kind in ("heads", "neurons"):
        pairs = [(block[kind], old[kind]) for block, old in zip(after["blocks"], before["blocks"], strict=True)]
        if any(now < old for now, old in pairs):
            kept, every = sum(now for now, _ in pairs), sum(old for _, old in pairs)
            rows.append((f"{stage['name']}: {kind}, {kept} of {every}", [now / old for now, old in pairs]))
    return rows or [(f"{stage['name']}: nothing", [1.0])]


def _draw_row(axes: Axes, place: int, name: str, shares: list[float], blocks: int) -> None:
    width = blocks / len(shares)
    for index, share in enumerate(shares):
        left = index * width - 0.5
        frame = {"linewidth": 0.5, "edgecolor": "#888888"}
        axes.add_patch(Rectangle((left + 0.06, place - 0.38), width - 0.12, 0.76, facecolor="white", **frame))
        axes.add_patch(
            Rectangle((left + 0.06, place - 0.38), width - 0.12, 0.76 * share, facecolor=COLOURS[0], linewidth=0)
        )
        if len(shares) == 1:
            box = {"facecolor": "white", "linewidth": 0, "pad": 1.5}
            axes.text(blocks / 2 - 0.5, place, f"{share:.0%} in every block", ha="center", va="center", bbox=box)
