"""The inputs of one block at a time, for all calibration sequences."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from slimsweep.errors import ModelError
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.scratch import Scratch

BATCH_TOKENS = 2048
"""Tokens of one forward through a block on a CPU: enough for full speed; twice as many are slower, by 7 %."""
GPU_BATCH_TOKENS = 16384
"""The same on a GPU, where small batches take as long as large ones: an H200 runs SmolLM2 on four times as many tokens
in the same time, from 4,096 to 16,384."""


Statistic = Tensor | tuple[Tensor, ...]
"""One, or several that are summed in one pass."""


@dataclass
class InputSum:
    """A statistic summed over everything that entered some layers, and the layers that share this input."""

    layers: list[str]
    summed: Statistic | None


@dataclass(frozen=True)
class _Call:
    """Arguments of a block's forward beside its hidden states."""

    args: tuple
    kwargs: dict[str, Any]


class _EnoughSeen(Exception):
    """Ends a forward whose rest is not needed."""


class Activations:
    """Hidden states as they enter a block. What else a block takes is recorded from the model's own forward.

    That way rotary tables, masks, kinds of attention and positional arguments of any family come along without
    being named here. All sequences have one length, so what the first was given serves them all.
    """

    def __init__(self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"]):
        self._blocks = model.blocks
        tokens = BATCH_TOKENS if model.compute_device.type == "cpu" else GPU_BATCH_TOKENS
        self._batch = max(1, tokens // token_ids.shape[1])
        self._calls = _record_calls(model, token_ids[:1])
        self.hidden, self._spill = _first_inputs(model, token_ids, self._batch)

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
                output = self._blocks[index](hidden, *call.args, **call.kwargs)
            except _EnoughSeen:
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
                raise _EnoughSeen

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


def _record_calls(model: LanguageModel, token_ids: Int[Tensor, "one token"]) -> list[_Call]:
    """What each block is given beside its hidden states, seen in one forward of the model."""
    calls: dict[int, _Call] = {}

    def record(index: int) -> Callable[[nn.Module, tuple, dict], None]:
        def before_forward(_block: nn.Module, args: tuple, kwargs: dict) -> None:
            _, call = _hidden_and_rest(args, kwargs)
            calls[index] = call

        return before_forward

    handles = [
        block.register_forward_pre_hook(record(index), with_kwargs=True) for index, block in enumerate(model.blocks)
    ]
    try:
        model.hidden_states(token_ids)
    finally:
        for handle in handles:
            handle.remove()
    return [calls[index] for index in range(len(model.blocks))]


def _first_inputs(
    model: LanguageModel, token_ids: Int[Tensor, "sequence token"], batch: int
) -> tuple[Float[Tensor, "sequence token width"], Scratch | None]:
    """Hidden states of all sequences as they enter the first block, and the file that holds them if one does."""
    one = _entering(model, token_ids[:1])
    shape = (len(token_ids), *one.shape[1:])
    spill = model.spill(math.prod(shape) * one.element_size())
    hidden = spill.tensor(shape, one.dtype) if spill else one.new_empty(shape)
    for ids, place in zip(token_ids.split(batch), hidden.split(batch), strict=True):
        place.copy_(_entering(model, ids))
        if spill:
            spill.release()
    return hidden, spill


def _entering(model: LanguageModel, token_ids: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token width"]:
    """Hidden states of one batch as they enter the first block; the forward ends there."""
    entered: list[Tensor] = []

    def before_forward(_block: nn.Module, args: tuple, kwargs: dict) -> None:
        entered.append(_hidden_and_rest(args, kwargs)[0])
        raise _EnoughSeen

    handle = model.blocks[0].register_forward_pre_hook(before_forward, with_kwargs=True)
    try:
        model.hidden_states(token_ids)
    except _EnoughSeen:
        pass
    finally:
        handle.remove()
    return entered[0]


def _hidden_and_rest(args: tuple, kwargs: dict) -> tuple[Tensor, _Call]:
    """A block's hidden states, which come first or by name, and the rest without any cache of keys."""
    from transformers.cache_utils import Cache

    if not args:
        kwargs = dict(kwargs)
        args = (kwargs.pop("hidden_states"),)
    rest = tuple(None if isinstance(value, Cache) else value for value in args[1:])
    named = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    return args[0], _Call(rest, named)
