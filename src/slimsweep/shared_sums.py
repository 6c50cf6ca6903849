"""What the inputs of a model's layers sum to, collected once for every technique and ratio that asks for the same.

Only sums over dense inputs can be shared: those over inputs of compressed blocks differ from job to job.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimsweep import stage_entry
from slimsweep.activations import InputSum
from slimsweep.keys import StageKey, sums_key
from slimsweep.stage_cache import StageCache

log = logging.getLogger(__name__)

Write = Callable[[int, list[InputSum], float], None]
"""Takes the sums of a block, by its index, and the seconds that collecting them took."""


@dataclass(frozen=True)
class SharedSums:
    """The sums that a stage may ask for, kept in the stage cache under model, text, statistic and layers."""

    cache: StageCache
    stage: StageKey
    """Of the stage that asks: how its model came to be, and which text is drawn."""

    @contextmanager
    def kept(self, statistic: str, layers: Sequence[str], size: int) -> Iterator[tuple["Sums | None", Write]]:
        """The sums where they are kept; else None, and a function that takes them, block by block, to be kept.

        Args:
            size: how many bytes they take at most.
        """
        key = sums_key(self.stage, statistic, layers)
        with self.cache.claim(key):
            sums = self._read(key)
            if sums is None:
                with self._taking(key, size) as write:
                    yield None, write
                return
        yield sums, _ignore

    def _read(self, key: StageKey) -> "Sums | None":
        if (found := self.cache.read(key)) is None:
            return None
        log.info("%s: restored", key.label)
        return Sums(found.folder, found.content["blocks"])

    @contextmanager
    def _taking(self, key: StageKey, size: int) -> Iterator[Write]:
        blocks: dict[str, list[list[str]]] = {}
        spent: list[float] = []
        with self.cache.writing(key, size) as entry:

            def write(index: int, sums: list[InputSum], seconds: float) -> None:
                spent.append(seconds)
                if entry.folder:
                    with entry.step():
                        tensors = {str(place): shared.summed for place, shared in enumerate(sums)}
                        save_file(tensors, entry.folder / _file(index))
                    blocks[str(index)] = [shared.layers for shared in sums]

            yield write
            if entry.folder:
                state = {"stages": [{"seconds": sum(spent)}]}
                with entry.step():
                    stage_entry.seal(entry.folder, key, {"blocks": blocks, "state": state})
        log.info("%s: %s", key.label, entry.outcome)


class Sums:
    """Sums by block. Files are opened at once, so that they may be evicted while they are in use."""

    def __init__(self, folder: Path, blocks: dict[str, list[list[str]]]):
        self._blocks = {int(index): layers for index, layers in blocks.items()}
        self._files: dict[int, Any] = {index: safe_open(folder / _file(index), "pt") for index in self._blocks}

    def of(self, index: int, device: torch.device) -> list[InputSum]:
        """The sums of one block on a device, read when asked for."""
        layers = self._blocks.get(index, [])
        tensors = (self._files[index].get_tensor(str(place)).to(device, copy=True) for place in range(len(layers)))
        return [InputSum(names, tensor) for names, tensor in zip(layers, tensors, strict=True)]


def _file(index: int) -> str:
    return f"block_{index}.safetensors"


def _ignore(_index: int, _sums: list[InputSum], _seconds: float) -> None:
    """They are kept already."""
