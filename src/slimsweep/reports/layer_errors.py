"""Error of each layer and block of a record, and the first block that stands out.

A stage writes one entry a layer into layers.json. The measure depends on the stage:

- `block_loss`, a note of stages that learn block by block: squared error of a block's outputs;
- `error`: relative error of what a packed or factored layer stores;
- `output_error_left`, a note of low-rank correction: part of the output error that is left;
- `change`: relative distance of a pruned weight from the weight before;
- the share of zeros, where a stage measured nothing else.

A block's value is the mean over its layers. Block losses add up through the model, the other values do not.
"""

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slimsweep.checks import is_number
from slimsweep.records.points import Record

OUTSTANDING = 3.0
"""A block stands out if its value is so many times the median of the blocks before it."""


@dataclass(frozen=True)
class Block:
    """One block of a measure."""

    name: str
    value: int | float
    layers: tuple[tuple[str, int | float], ...]
    """Layers by their names within the block, with their values; none where only the whole block was measured."""

    @property
    def worst(self) -> tuple[str, int | float] | None:
        """The layer with the largest value."""
        return max(self.layers, key=lambda layer: layer[1], default=None)


@dataclass(frozen=True)
class Measure:
    """One measure of a stage, block by block."""

    stage: str
    words: str
    """The measure in words, for a heading."""
    blocks: tuple[Block, ...]

    @property
    def largest(self) -> Block:
        """The block with the largest value."""
        return max(self.blocks, key=lambda block: block.value)

    @property
    def first_bad(self) -> tuple[Block, float] | None:
        """The first block that stands out, and how many times the value of the blocks before it has; None if none does.

        The first block is compared with all others.
        """
        values = [block.value for block in self.blocks]
        for place, block in enumerate(self.blocks):
            others = values[:place] or values[1:]
            usual = statistics.median(others) if others else 0.0
            if usual > 0 and block.value > OUTSTANDING * usual:
                return block, block.value / usual
        return None

    def sentence(self) -> str:
        """One or two sentences on where the error enters."""
        largest = self.largest
        most = f"largest: {largest.name} ({largest.value:.3g})"
        if found := self.first_bad:
            block, times = found
            others = "the blocks before it" if block is not self.blocks[0] else "the other blocks"
            layer = f"; its worst layer is {block.worst[0]} ({block.worst[1]:.3g})" if block.worst else ""
            first = (
                f"First bad block: {block.name}, {block.value:.3g}, {times:,.3g} times the median of {others}{layer}."
            )
            return f"{first} The {most}."
        return f"No block stands out (none is {OUTSTANDING:g} times the median of those before it); {most}."


def measures(record: Record, layers: Sequence[dict[str, Any]] | None) -> list[Measure]:
    """Measures of every stage of a record, in order; `layers` is the content of its layers.json."""
    notes = {stage["name"]: stage.get("notes") or {} for stage in record.get("stages") or []}
    found = []
    for entry in layers or []:
        stage, reports = str(entry.get("stage")), entry.get("layers") or []
        own = notes.get(stage, {})
        if losses := own.get("block_loss"):
            blocks = [Block(name, loss["after"], ()) for name, loss in losses.items() if is_number(loss.get("after"))]
            found += [Measure(stage, "error of a block's outputs", tuple(blocks))] if blocks else []
        found += [one for one in [_of_layers(stage, reports, own)] if one]
    return found


def _of_layers(stage: str, reports: Sequence[dict[str, Any]], notes: dict[str, Any]) -> Measure | None:
    """The best measure that layers of a stage have; None where a stage treated no layer."""
    left = notes.get("output_error_left") or {}
    readers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "relative error of the stored weights": lambda layer: layer.get("error"),
        "output error left": lambda layer: left.get(layer["name"]),
        "relative change of the weights": lambda layer: layer.get("change"),
        "share of zeros (this stage measured no error)": _zeros,
    }
    for words, read in readers.items():
        values = {layer["name"]: read(layer) for layer in reports}
        known = {name: value for name, value in values.items() if is_number(value)}
        if any(known.values()):
            return Measure(stage, words, tuple(_blocks(known)))
    return None


def _zeros(layer: dict[str, Any]) -> int | float | None:
    return layer["zeros"] / layer["weights"] if layer.get("weights") else None


def _blocks(values: dict[str, int | float]) -> list[Block]:
    """Layers by block, in the order of the model."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for name, value in values.items():
        block, part = split(name)
        groups.setdefault(block, []).append((part, value))
    return [
        Block(name, statistics.fmean(value for _, value in layers), tuple(layers)) for name, layers in groups.items()
    ]


def split(name: str) -> tuple[str, str]:
    """A layer's name as block and part: `model.layers.3` and `mlp.up_proj`; a layer outside blocks is its own block."""
    match = re.match(r"(.*?\.\d+)\.(.+)", name)
    return (match[1], match[2]) if match else (name, name.rpartition(".")[2])
