"""The inputs of one block at a time, for all calibration sequences."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from slimsweep.blockwise.block_calls import EnoughSeen, first_inputs, record_calls
from slimsweep.errors import ModelError
from slimsweep.models.batch_sizes import batch_tokens
from slimsweep.models.batches import Batch, split
from slimsweep.models.language_model import LanguageModel

Statistic = Tensor | tuple[Tensor, ...]
"""One, or several that are summed in one pass."""


@dataclass
class InputSum:
    """A statistic summed over everything that entered some layers, and the layers that share this input."""

    layers: list[str]
    summed: Statistic | None


class Activations:
    """Hidden states as they enter a block. What else a block takes is recorded from the model's own forward.

    That way rotary tables, masks, kinds of attention and positional arguments of any family come along without
    being named here. All sequences have one length, so what the first was given serves them all.
    """

    def __init__(self, model: LanguageModel, batch: Batch):
        token_ids = batch["input_ids"]
        self._blocks = model.blocks
        self._batch = max(1, batch_tokens(model) // token_ids.shape[1])
        self._calls = record_calls(model, next(split(batch, 1)))
        self.hidden, self._spill = first_inputs(model, batch, self._batch)

    def collect(
        self,
        index: int,
        layers: dict[str, nn.Module],
        statistic: Callable[[Tensor], Statistic],
        advance: bool,
        merge: Callable[[Statistic, Statistic], Statistic] = Tensor.add_,
    ) -> list[InputSum]:
        """Sum a statistic over the inputs of a block's layers, once per input that several of them share.

        `merge` makes one of two batches' statistics where that is not their sum.
        With `advance` the block's outputs become the inputs of the next, in the same pass.

        Raises:
            ModelError: a layer that no token reached.
        """
        if not layers and not advance:
            return []
        recorder = _Recorder(statistic, merge, expected=None if advance else len(layers))
        outputs = self._outputs(index, recorder)
        self._recorded(recorder, layers, self._replacing(outputs) if advance else outputs)
        return recorder.sums()

    def advance(self, index: int) -> None:
        """Replace the inputs of a block by its outputs."""
        for _ in self._replacing(self._outputs(index)):
            pass

    def _replacing(self, outputs: Iterator[tuple[Tensor, Tensor | None]]) -> Iterator[None]:
        """Put each batch's outputs in the place of its inputs."""
        for hidden, output in outputs:
            hidden.copy_(output)
            yield

    def groups(self, index: int, layers: dict[str, nn.Module]) -> list[list[str]]:
        """A block's layers by the input they share, in forward order, as one sequence reaches them.

        Raises:
            ModelError: a layer that no token reached.
        """
        recorder = _Recorder(lambda inputs: inputs.new_zeros(()), Tensor.add_, expected=len(layers))
        self._recorded(recorder, layers, self._outputs(index, recorder, self.hidden[:1]))
        return [shared.layers for shared in recorder.sums()]

    def runs(self, index: int) -> list[Callable[[], None]]:
        """For each batch a function that replaces its inputs of a block by its outputs."""

        def advance(hidden: Tensor) -> None:
            for _ in self._replacing(self._outputs(index, some=hidden)):
                pass

        return [functools.partial(advance, hidden) for hidden in self.hidden.split(self._batch)]

    def _recorded(self, recorder: "_Recorder", layers: dict[str, nn.Module], outputs: Iterator) -> None:
        """Go through outputs with a recorder's hooks on."""
        handles = [layer.register_forward_pre_hook(recorder.hook(name)) for name, layer in layers.items()]
        try:
            for _ in outputs:
                pass
        finally:
            for handle in handles:
                handle.remove()
        if unreached := [name for name in layers if name not in recorder.leader]:
            raise ModelError(f"No calibration token reached {', '.join(unreached)}; exclude them with exclude=[...].")

    def _outputs(
        self, index: int, recorder: "_Recorder | None" = None, some: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Inputs and output of a block by batches, of all sequences or some; None where the recorder ended it."""
        call = self._calls[index]
        for hidden in (self.hidden if some is None else some).split(self._batch):
            try:
                output = self._blocks[index](hidden, *call.args, **call.repeated(len(hidden)))
            except EnoughSeen:
                output = None
            if recorder:
                recorder.next_batch()
            yield hidden, output[0] if isinstance(output, tuple) else output
            if self._spill:
                self._spill.release()


class _Recorder:
    """Hooks that sum a statistic; layers given the very same tensor share one sum."""

    def __init__(
        self,
        statistic: Callable[[Tensor], Statistic],
        merge: Callable[[Statistic, Statistic], Statistic],
        expected: int | None,
    ):
        self.leader: dict[str, str] = {}
        self._statistic = statistic
        self._merge = merge
        self._expected = expected
        self._summed: dict[str, Statistic] = {}
        self._seen: dict[str, Tensor] = {}
        self._reached: set[str] = set()

    def hook(self, name: str) -> Callable[[nn.Module, tuple], None]:
        def before_forward(_layer: nn.Module, args: tuple) -> None:
            inputs = args[0]
            self.leader[name] = next((other for other, seen in self._seen.items() if seen is inputs), name)
            if self.leader[name] == name:
                self._add(name, self._statistic(inputs.flatten(0, -2)))
                self._seen[name] = inputs
            self._reached.add(name)
            if len(self._reached) == self._expected:
                raise EnoughSeen

        return before_forward

    def next_batch(self) -> None:
        self._seen.clear()
        self._reached.clear()

    def sums(self) -> list[InputSum]:
        return [
            InputSum([name for name, leader in self.leader.items() if leader == first], summed)
            for first, summed in self._summed.items()
        ]

    def _add(self, name: str, value: Statistic) -> None:
        self._summed[name] = self._merge(self._summed[name], value) if name in self._summed else value
