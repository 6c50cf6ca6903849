"""What the inputs of a model's layers sum to, and what is prepared of it, once for every technique and ratio that asks.

Only sums over dense inputs can be shared: those over inputs of compressed blocks differ from job to job.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimsweep import stage_entry
from slimsweep.activations import InputSum
from slimsweep.hessian import squared_norm
from slimsweep.keys import StageKey, sums_key
from slimsweep.shared_inputs import Prepared
from slimsweep.stage_cache import StageCache, Writing

if TYPE_CHECKING:
    from slimsweep.layerwise import LayerMethod

log = logging.getLogger(__name__)

ALONG = {"gram": {"squared_norm": squared_norm}}
"""What is summed in the same forwards for whoever asks next: it takes next to nothing beside them."""
SUM = "sum"

Groups = list[tuple[list[str], dict[str, Tensor]]]
"""Layers that share an input, and tensors of that input by name."""


@dataclass(frozen=True)
class SharedSums:
    """The sums that a stage may ask for, kept in the stage cache under model, text, statistic and layers."""

    cache: StageCache
    stage: StageKey
    """Of the stage that asks: how its model came to be, and which text is drawn."""

    @contextmanager
    def of(self, method: "LayerMethod", layers: Sequence[str], size: int) -> Iterator["Shared"]:
        """What is known for a method, or where what it finds is kept.

        Args:
            size: how many bytes the sums take at most.
        """
        shared = Shared(method)
        with ExitStack() as stack:
            for name in filter(None, (method.prepared_name, method.statistic_name)):
                key = sums_key(self.stage, name, layers)
                claim = stack.enter_context(ExitStack())
                claim.enter_context(self.cache.claim(key))
                if found := self._read(key):
                    claim.close()  # its files are open
                    shared.known[name] = found
                    break
                shared.writers[name] = stack.enter_context(self._writing(key, size))
            else:
                for name in ALONG.get(method.statistic_name, ()):
                    key = sums_key(self.stage, name, layers)
                    stack.enter_context(self.cache.claim(key))
                    if not self.cache.holds(key):
                        shared.writers[name] = stack.enter_context(self._writing(key, size))
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


class Shared:
    """What a method's layers share of their inputs: read where it is known, else summed, and kept where asked."""

    def __init__(self, method: "LayerMethod"):
        self.method = method
        self.known: dict[str, Blocks] = {}
        self.writers: dict[str, BlockWriter] = {}

    @property
    def is_known(self) -> bool:
        """Whether no inputs need be collected."""
        return bool(self.known)

    def read(self, index: int, device: torch.device) -> list[Prepared]:
        """What is known of a block's inputs, on a device."""
        if found := self.known.get(self.method.prepared_name):
            groups = found.of(index, device)
            return [Prepared.ready(layers, self.method.from_tensors(tensors)) for layers, tensors in groups]
        groups = self.known[self.method.statistic_name].of(index, device)
        return [Prepared(self.method, InputSum(layers, tensors[SUM])) for layers, tensors in groups]

    def sum(self, index: int, collect: Callable[..., tuple[list[InputSum], float]]) -> list[Prepared]:
        """A block's sums.

        Args:
            collect: of a statistic and what merges two of them; returns the sums, and the seconds they took.
        """
        own, along = self.method.statistic_name, ALONG.get(self.method.statistic_name, {})
        others = {name: along[name] for name in self.writers if name in along}
        if not others:
            sums, seconds = collect(self.method.statistic, Tensor.add_)
        else:
            every = (self.method.statistic, *others.values())
            tuples, seconds = collect(lambda inputs: tuple(part(inputs) for part in every), _add)
            by_name = zip((own, *others), zip(*(shared.summed for shared in tuples), strict=True), strict=True)
            sums, *rest = (
                [InputSum(shared.layers, summed) for shared, summed in zip(tuples, values, strict=True)]
                for _, values in by_name
            )
            for name, other in zip(others, rest, strict=True):
                self._write(name, index, [(shared.layers, {SUM: shared.summed}) for shared in other], seconds)
        self._write(own, index, [(shared.layers, {SUM: shared.summed}) for shared in sums], seconds)
        return [Prepared(self.method, shared) for shared in sums]

    def keep(self, index: int, every: list[Prepared]) -> None:
        """Keep what was prepared for a block."""
        if (name := self.method.prepared_name) in self.writers:
            groups = [(prepared.layers, self.method.to_tensors(prepared())) for prepared in every]
            self._write(name, index, groups, sum(prepared.seconds for prepared in every))

    def _write(self, name: str, index: int, groups: Groups, seconds: float) -> None:
        if name in self.writers:
            self.writers[name].write(index, groups, seconds)


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


def _add(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.add_(b) for a, b in zip(one, other, strict=True))


def _file(index: int) -> str:
    return f"block_{index}.safetensors"
