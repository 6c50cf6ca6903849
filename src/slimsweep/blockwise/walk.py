"""The walk over blocks, written once: visit each in forward order, treat it, hand its outputs to the next.

Propagation of calibration inputs, for a block b and its treated self b':

    compressed   inputs -> b (statistics), treat, inputs -> b' -> inputs of the next block
    dense        inputs -> b (statistics) -> inputs of the next block, treat
    sequential   inputs -> b, halted before each layer: statistics, treat the layer, go on -> inputs of the next block
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from slimsweep.blockwise.activations import Activations, InputSum, Statistic
from slimsweep.blockwise.sequential import by_group
from slimsweep.errors import LayerError, SlimsweepError
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.progress import tracked

PROPAGATIONS = ("compressed", "dense", "sequential")
"""Words of the knob `inputs`, see above."""


@dataclass
class Visit:
    """A block in its turn, with the calibration inputs that reach it. Its weights are on the compute device."""

    index: int
    block: nn.Module
    activations: Activations | None
    """Inputs of the block; None in a walk without forwards."""
    propagation: str
    is_last: bool
    """True where no block after this one is visited, so that its outputs are not needed."""
    _is_done: bool = field(default=False, init=False)
    """Whether the block has handed its outputs on."""

    def collect(
        self,
        layers: dict[str, nn.Module],
        statistic: Callable[[Tensor], Statistic],
        merge: Callable[[Statistic, Statistic], Statistic] = Tensor.add_,
    ) -> list[InputSum]:
        """Sum a statistic over the inputs of layers, once per input that several of them share.

        With dense propagation the block hands on its outputs in the same pass, so this is to be called once.
        """
        advances = self.propagation == "dense" and not self.is_last
        self._is_done |= advances
        return self.activations.collect(self.index, layers, statistic, advances, merge)

    def collect_in_turn(
        self,
        layers: dict[str, nn.Module],
        statistic: Callable[[Tensor], Tensor],
        replaced: Callable[[str], nn.Module],
    ) -> Iterator[InputSum]:
        """Yield the sums of one input after another; the consumer treats the layers that read it meanwhile.

        Args:
            replaced: a layer of this name as it is now.
        """
        self._is_done = True
        return by_group(self.activations, self.index, layers, replaced, statistic, self.is_last)

    def advance(self) -> None:
        """Hand the outputs of the block, as it is now, to the next; once is enough."""
        if self.activations is not None and not self._is_done:
            self.activations.advance(self.index)
            self._is_done = True


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A walk over the blocks of a model in forward order."""

    title: str
    """Title of the walk, for whoever watches."""
    batch: Batch | None = None
    """Calibration sequences; None runs no forward between the blocks."""
    propagation: str = "compressed"
    """Outputs that the next block is given: see the picture at the top of this file."""
    stop: int | None = None
    """Number of blocks to visit; None visits all."""

    def run(self, model: LanguageModel, treat: Callable[[Visit], Iterable[Any]]) -> list[Any]:
        """Treat one block after another without gradients; returns all results in order.

        Beyond the weights it holds the inputs of one block for all sequences.

        Raises:
            LayerError: a block could not be treated for a reason that no other error has; names the block.
            ModelError: inputs of a layer that no calibration token reached.
        """
        results: list[Any] = []
        with torch.no_grad():
            activations = None if self.batch is None else Activations(model, self.batch)
            blocks = model.blocks[: self.stop]
            for index, block in tracked(blocks, f"{self.title}: block"):
                visit = Visit(index, block, activations, self.propagation, index == len(blocks) - 1)
                with model.resident(block), _named(model.block_names[index]):
                    results += treat(visit)
                    if not visit.is_last:
                        visit.advance()
        return results


@contextmanager
def _named(block: str) -> Iterator[None]:
    """Name the block in errors that name no layer themselves."""
    try:
        yield
    except SlimsweepError:  # names its layers itself
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        error.add_note(f"at {block}")
        raise
    except Exception as error:
        raise LayerError(f"{block}: {type(error).__name__}: {error}") from error
