"""Accuracy of each model on each task, coloured by what is kept of the dense model's, and the mean of all tasks."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from slimsweep.evaluation.quantity import Quantity
from slimsweep.figures.series import DENSE, file_word, linear_quality, model_label, protocol_of, shown, variants
from slimsweep.figures.style import PAGE_INCHES, footnote, new_figure
from slimsweep.records.points import Record

SWEEPS = ("zero_shot",)

FEWEST_TASKS = 2
COLOURS = "RdYlBu"
"""Red below the dense model, blue above it; the middle is pale."""
DARK = 0.75
"""Part of the scale, from its middle, beyond which a cell is too dark for black text."""


@dataclass(frozen=True)
class Grid:
    """Values of the rows of a heatmap, the dense model first; None where one was not measured by its protocol."""

    labels: list[str]
    tasks: list[Quantity]
    values: list[list[float | None]]

    @property
    def kept(self) -> list[list[float | None]]:
        """Each value, and the mean of its row, divided by that of the dense model over the same tasks."""
        base = self.values[0]
        rows = []
        for row in self.values:
            pairs = [(value, whole) for value, whole in zip(row, base, strict=True) if value is not None]
            mean = _quotient(statistics.fmean(a for a, _ in pairs), statistics.fmean(b for _, b in pairs))
            rows.append([*(_quotient(*pair) for pair in zip(row, base, strict=True)), mean])
        return rows


def draw(records: list[dict[str, Any]]) -> dict[str, Figure]:
    """`zero_shot_heatmap`, or one for each model; it needs a dense model and two tasks."""
    models: dict[str, list[Record]] = {}
    for record in records:
        models.setdefault(model_label(record), []).append(record)
    figures = {}
    for model, members in sorted(models.items()):
        grid = grid_of(members)
        if grid and len(grid.labels) > 1:
            suffix = f"_{file_word(model)}" if len(models) > 1 else ""
            figures[f"zero_shot_heatmap{suffix}"] = _figure(grid, model, _protocols(members, grid.tasks))
    return figures


def grid_of(records: Sequence[Record]) -> Grid | None:
    """The values of one model's records on the tasks that its dense record has; None where there are too few."""
    dense = [record for record in records if record["technique"] == DENSE]
    tasks = [quantity for quantity, _ in shown(dense[:1], linear_quality) if dense[0].get(quantity.field) is not None]
    if len(tasks) < FEWEST_TASKS:
        return None
    rows = {DENSE: _values(dense[0], dense[0], tasks)}
    for label, members in variants(record for record in records if record["technique"] != DENSE).items():
        for ratio in sorted({record.get("ratio") for record in members}, key=lambda ratio: ratio or 0):
            seeds = [_values(one, dense[0], tasks) for one in members if one.get("ratio") == ratio]
            name = label if ratio is None else f"{label} {ratio:g}"
            rows[name] = [_mean(column) for column in zip(*seeds, strict=True)]
    measured = {label: row for label, row in rows.items() if any(value is not None for value in row)}
    return Grid(list(measured), tasks, list(measured.values()))


def _values(record: Record, dense: Record, tasks: Sequence[Quantity]) -> list[float | None]:
    """Values of a record's tasks, None where its protocol is not that of the dense model."""
    is_same = [protocol_of(record, task.field) == protocol_of(dense, task.field) for task in tasks]
    return [record.get(task.field) if same else None for task, same in zip(tasks, is_same, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return statistics.fmean(measured) if measured else None


def _quotient(value: float | None, whole: float | None) -> float | None:
    return value / whole if value is not None and whole else None


def _protocols(records: Sequence[Record], tasks: Sequence[Quantity]) -> str:
    dense = next(record for record in records if record["technique"] == DENSE)
    return "; ".join(protocol for task in tasks if (protocol := protocol_of(dense, task.field)))


def _figure(grid: Grid, model: str, protocols: str) -> Figure:
    figure = new_figure(width=PAGE_INCHES, height=0.9 + 0.27 * len(grid.labels))
    axes = figure.add_subplot()
    kept = [[float("nan") if value is None else value for value in row] for row in grid.kept]
    largest = max([0.1, *(abs(value - 1) for row in kept for value in row if value == value)])
    spread = min(1, largest)  # a quotient is never below 0; one above 2 has the colour of 2
    image = axes.imshow(kept, cmap=COLOURS, vmin=1 - spread, vmax=1 + spread, aspect="auto")
    for place, (values, row) in enumerate(zip(grid.values, grid.kept, strict=True)):
        texts = ["-" if one is None else task.text(one) for one, task in zip(values, grid.tasks, strict=True)]
        texts.append("-" if row[-1] is None else f"{row[-1]:.3f}")
        for column, text in enumerate(texts):
            is_dark = row[column] is not None and abs(row[column] - 1) > DARK * spread
            axes.text(column, place, text, ha="center", va="center", fontsize=7, color="white" if is_dark else "black")
    axes.set_xticks(range(len(grid.tasks) + 1), [*(task.stem.replace("_", "\n") for task in grid.tasks), "kept"])
    axes.set_yticks(range(len(grid.labels)), grid.labels)
    axes.axvline(len(grid.tasks) - 0.5, color="white", linewidth=3)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_title(model, loc="left")
    extend = "max" if largest > spread else "neither"
    figure.colorbar(image, ax=axes, label="divided by dense", pad=0.01, extend=extend)
    footnote(figure, protocols)
    return figure
