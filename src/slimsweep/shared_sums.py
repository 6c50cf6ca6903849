"""What the inputs of a model's layers sum to, and what is prepared of it, once for every technique and ratio that asks.

Only sums over dense inputs can be shared: those over inputs of compressed blocks differ from job to job.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimsweep import stage_entry
from slimsweep.keys import StageKey, sums_key
from slimsweep.shared_inputs import ALONG, Groups, Shared, statistic_bytes
from slimsweep.stage_cache import StageCache, Writing

if TYPE_CHECKING:
    from slimsweep.layerwise import LayerMethod

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedSums:
    """The sums that a stage may ask for, kept in the stage cache under model, text, statistic and layers."""

    cache: StageCache
    stage: StageKey
    """Of the stage that asks: how its model came to be, and which text is drawn."""

    @contextmanager
    def of(self, method: "LayerMethod", layers: dict[str, int]) -> Iterator["Shared"]:
        """What is known for a method, or where what it finds is kept.

        Args:
            layers: their names and input widths.
        """
        shared, size = Shared(method), statistic_bytes(method.statistic, layers.values())
        with ExitStack() as stack:
            for name in filter(None, (method.prepared_name, method.statistic_name)):
                key = sums_key(self.stage, name, list(layers))
                claim = stack.enter_context(ExitStack())
                claim.enter_context(self.cache.claim(key))
                if found := self._read(key):
                    claim.close()  # its files are open
                    shared.known[name] = found
                    break
                shared.writers[name] = stack.enter_context(self._writing(key, size))
            else:
                for name, statistic in ALONG.get(method.statistic_name, {}).items():
                    key = sums_key(self.stage, name, list(layers))
                    claim = stack.enter_context(ExitStack())
                    claim.enter_context(self.cache.claim(key))
                    if self.cache.holds(key):
                        claim.close()
                        continue
                    own = statistic_bytes(statistic, layers.values())
                    shared.writers[name] = stack.enter_context(self._writing(key, own))
            yield shared

    def _read(self, key: StageKey) -> "Blocks | None":
        if (found := self.cache.read(key)) is None:
            return None
        log.info("%s: restored", key.label)
        return Blocks(found.folder, found.content["blocks"])

    @contextmanager
    def _writing(self, key: StageKey, size: int) -> Iterator["BlockWriter"]:
        with self.cache.writing(key, size) as entry:
            writer = BlockWriter(entry)
            yield writer
            if entry.folder:
                state = {"stages": [{"seconds": writer.seconds}]}
                with entry.step():
                    stage_entry.seal(entry.folder, key, {"blocks": writer.blocks, "state": state})
        log.info("%s: %s", key.label, entry.outcome)


class BlockWriter:
    """Takes tensors block by block into an entry of the cache."""

    def __init__(self, entry: Writing):
        self.blocks: dict[str, list[list[str]]] = {}
        self.seconds = 0.0
        """What it took to compute them."""
        self._entry = entry

    def write(self, index: int, groups: Groups, seconds: float) -> None:
        self.seconds += seconds
        if self._entry.folder:
            tensors = {f"{place} {name}": part for place, (_, own) in enumerate(groups) for name, part in own.items()}
            with self._entry.step():
                save_file(tensors, self._entry.folder / _file(index))
            self.blocks[str(index)] = [layers for layers, _ in groups]


class Blocks:
    """Tensors by block. Files are opened at once, so that they may be evicted while they are in use."""

    def __init__(self, folder: Path, blocks: dict[str, list[list[str]]]):
        self._blocks = {int(index): layers for index, layers in blocks.items()}
        self._files: dict[int, Any] = {index: safe_open(folder / _file(index), "pt") for index in self._blocks}

    def of(self, index: int, device: torch.device) -> Groups:
        """The tensors of one block on a device, read when asked for."""
        groups: Groups = [(layers, {}) for layers in self._blocks.get(index, [])]
        for key in self._files[index].keys() if groups else ():
            place, name = key.split(" ", 1)
            groups[int(place)][1][name] = self._files[index].get_tensor(key).to(device, copy=True)
        return groups


def _file(index: int) -> str:
    return f"block_{index}.safetensors"
