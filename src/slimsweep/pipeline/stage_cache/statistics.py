"""Disk cache of calibration statistics (Gram matrices, norms) and Hessian factors, shared by all jobs.

Only statistics of dense inputs can be shared: those of inputs of compressed blocks differ from job to job.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from slimsweep.blockwise.layer_method import InputStatistic, StoredFactors
from slimsweep.blockwise.shared_inputs import ALONG, Groups, Shared, prepared_bytes, statistic_bytes
from slimsweep.pipeline.keys import StageKey, sums_key
from slimsweep.pipeline.stage_cache import entry as stage_entry
from slimsweep.pipeline.stage_cache.cache import StageCache
from slimsweep.pipeline.stage_cache.writing import UNWORTHY, Writing, worth_keeping

log = logging.getLogger(__name__)

Entries = dict[str, tuple[StageKey, int]]
"""Key of an entry and its largest size in bytes, by name of the statistic."""


@dataclass(frozen=True)
class StatisticsCache:
    """Calibration statistics of one stage, kept in the stage cache under model, text, statistic and layers."""

    cache: StageCache
    stage: StageKey
    """Key of the stage that asks: the stages before it, and the text that is drawn."""

    @contextmanager
    def of(self, method: InputStatistic, layers: dict[str, int]) -> Iterator["Shared"]:
        """Statistics that are known for a method, or the entries that will keep those it collects.

        Args:
            layers: their names and input widths.
        """
        shared = Shared(method)
        wanted = self._wanted(method, layers)
        with ExitStack() as stack:
            missing = self._missing(shared, wanted, stack)
            if not shared.is_known:
                missing |= self._missing_along(method, layers, stack)
            # Only now: room is made where nothing is known, and never by removing what was to be read.
            for name, (key, size) in missing.items():
                shared.writers[name] = stack.enter_context(self._writing(key, size))
            yield shared

    def _wanted(self, method: InputStatistic, layers: dict[str, int]) -> Entries:
        """Entries that serve a method, the most finished first, and the most bytes each takes."""
        size = statistic_bytes(method.statistic, layers.values())
        factors = method.prepared_name if isinstance(method, StoredFactors) else None
        names = {factors: prepared_bytes(size, layers.values()), method.statistic_name: size}
        return {name: (sums_key(self.stage, name, list(layers)), size) for name, size in names.items() if name}

    def _missing(self, shared: Shared, wanted: Entries, stack: ExitStack) -> Entries:
        """Read the first that is kept; the stack holds claims on those before it, which are returned."""
        missing = {}
        for name, (key, size) in wanted.items():
            with ExitStack() as claim:
                claim.enter_context(self.cache.claim(key))
                if found := self._read(key):  # its files are open: the claim may end
                    shared.known[name] = found
                    break
                missing[name] = key, size
                stack.push(claim.pop_all())
        for key, _ in wanted.values():
            self.cache.touch(key)  # what was made of it is used, so it is not what was unused for longest
        return missing

    def _missing_along(self, method: InputStatistic, layers: dict[str, int], stack: ExitStack) -> Entries:
        """Statistics to sum along for other techniques: those neither kept nor claimed by another job."""
        missing = {}
        for name, statistic in ALONG.get(method.statistic_name, {}).items():
            key = sums_key(self.stage, name, list(layers))
            with ExitStack() as claim:
                if claim.enter_context(self.cache.claim(key, waits=False)) and not self.cache.holds(key):
                    missing[name] = key, statistic_bytes(statistic, layers.values())
                    stack.push(claim.pop_all())
        return missing

    def _read(self, key: StageKey) -> "Blocks | None":
        if (found := self.cache.read(key)) is None:
            return None
        log.info("%s: restored", key.label)
        seconds = found.content["state"]["stages"][0]["seconds"]
        return Blocks(found.folder, found.content["blocks"], seconds)

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
        """Time to compute the statistics."""
        self._entry = entry

    def write(self, index: int, groups: Groups, seconds: float) -> None:
        """Keep tensors of a block, or nothing from then on if computing a block's is quicker than reading them back."""
        self.seconds += seconds
        tensors = {f"{place} {name}": part for place, (_, own) in enumerate(groups) for name, part in own.items()}
        size = sum(part.nbytes for part in tensors.values())
        if self._entry.folder and not any(self.blocks.values()) and not worth_keeping(size, seconds):
            self._entry.drop(UNWORTHY)
        if self._entry.folder:
            with self._entry.step():
                save_file(tensors, self._entry.folder / _file(index))
            self.blocks[str(index)] = [layers for layers, _ in groups]


class Blocks:
    """Tensors by block. Files are opened at once, so that they may be evicted while they are in use."""

    def __init__(self, folder: Path, blocks: dict[str, list[list[str]]], seconds: float):
        self.seconds = seconds / max(len(blocks), 1)
        """Average time to compute the statistics of one block."""
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
