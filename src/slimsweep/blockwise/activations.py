"""The inputs of one block at a time, for all calibration sequences."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimsweep.blockwise.block_calls import Call, EnoughSeen, Output, hidden_of, record_calls, tail_of
from slimsweep.errors import ModelError
from slimsweep.models.batch_sizes import batch_tokens
from slimsweep.models.batches import Batch, sequence_count, split, token_mask
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement.scratch import Scratch

Statistic = Tensor | tuple[Tensor, ...]
"""One, or several that are summed in one pass."""


@dataclass
class InputSum:
    """A statistic summed over everything that entered some layers, and the layers that share this input."""

    layers: list[str]
    summed: Statistic | None


@dataclass
class Part:
    """Sequences that go through a block at once."""

    hidden: Float[Tensor, "sequence token width"]
    """Their place in the hidden states of all sequences."""
    calls: list[Call]
    """Arguments of each block of the stack."""
    repeats: int
    """Sequences for which an argument of one sequence is repeated; 1 where the calls were recorded from this part."""
    tokens: Bool[Tensor, " place"] | None = None
    """False for padding, over sequences and places; None where nothing is padded."""
    source_tokens: Bool[Tensor, " source_place"] | None = None
    """The same of the encoder's output, which a decoder reads."""
    tail: tuple[Any, ...] = ()
    """Output of the block before without its hidden states, where the next block is given something of it."""
    given: tuple[Any, ...] = ()
    """Arguments of the block that runs."""

    def run(self, block: Callable[..., Output], place: int) -> Output:
        """Output of the block at a place of the stack, or of a function that stands for it."""
        args, kwargs = self.calls[place].filled(self.tail, self.repeats)
        self.given = (*args, *kwargs.values())
        return block(self.hidden, *args, **kwargs)

    def take(self, output: Output, place: int) -> None:
        """Put the output of the block at a place of the stack where its inputs were."""
        self.hidden.copy_(hidden_of(output))
        is_read = place + 1 < len(self.calls) and self.calls[place + 1].handed
        self.tail = tail_of(output) if is_read else ()

    def rows(self, inputs: Float[Tensor, "*token in"]) -> Float[Tensor, "token in"]:
        """Inputs of a layer in the block that runs, without padding.

        Keys and values of cross-attention read the encoder's output, which is an argument of the block.
        """
        is_source = any(inputs is value for value in self.given)
        kept, rows = self.source_tokens if is_source else self.tokens, inputs.flatten(0, -2)
        return rows if kept is None else rows[kept]


class Activations:
    """Hidden states at the input of a block. The other arguments of a block are recorded from the model's own forward.

    So rotary tables, masks, kinds of attention and positional arguments of any family need no code here. Without
    padding and with one stack of blocks, the arguments of the first sequence serve all sequences. Else arguments are
    recorded for each part of the batch that runs at once.

    Visit the blocks in forward order. At the first block of the next stack, the model's own forward continues from the
    outputs of the stack before. So a decoder is calibrated on the compressed encoder.
    """

    def __init__(self, model: LanguageModel, batch: Batch):
        self.hidden: Float[Tensor, "sequence token width"]
        self._model, self._batch = model, batch
        self._blocks, self._stacks = model.blocks, model.stack_ranges
        longest = max(values.shape[1] for name, values in batch.items() if name.endswith("input_ids"))
        self._sequences = max(1, batch_tokens(model) // longest)
        self._is_uniform = len(self._stacks) == 1 and "attention_mask" not in batch
        self._parts: list[Part] = []
        self._spill: Scratch | None = None
        self._outer: Callable[[Tensor], Output] = lambda hidden: hidden
        """Output of a block from its hidden states, for code that reads nothing else of it."""
        self._enter(0)

    def tokens(self, index: int) -> int:
        """Number of tokens, without padding, that enter a block."""
        return sum(
            part.hidden.shape[:2].numel() if part.tokens is None else int(part.tokens.sum())
            for part in self._parts_at(index)
        )

    def collect(
        self,
        index: int,
        layers: dict[str, nn.Module],
        statistic: Callable[[Tensor], Statistic],
        advance: bool,
        merge: Callable[[Statistic, Statistic], Statistic] = Tensor.add_,
    ) -> list[InputSum]:
        """Sum a statistic over the inputs of a block's layers, once per input that several of them share.

        Padding is no input. `merge` makes one of two batches' statistics where that is not their sum.
        With `advance` the block's outputs become the inputs of the next, in the same pass.

        Raises:
            ModelError: a layer that no token reached.
        """
        if not layers and not advance:
            return []
        recorder = _Recorder(statistic, merge, expected=None if advance else len(layers))
        self._recorded(
            recorder, layers, self._outputs(index, self._parts_at(index), recorder), index if advance else None
        )
        return recorder.sums()

    def advance(self, index: int) -> None:
        """Replace the inputs of a block by its outputs."""
        for part, output in self._outputs(index, self._parts_at(index)):
            self._take(index, part, output)

    def groups(self, index: int, layers: dict[str, nn.Module]) -> list[list[str]]:
        """A block's layers by the input they share, in forward order, as one sequence reaches them.

        Raises:
            ModelError: a layer that no token reached.
        """
        recorder = _Recorder(lambda inputs: inputs.new_zeros(()), Tensor.add_, expected=len(layers))
        first = self._parts_at(index)[0]
        if self._is_uniform:
            first = replace(first, hidden=self.hidden[:1], repeats=1)
        self._recorded(recorder, layers, self._outputs(index, [first], recorder))
        return [shared.layers for shared in recorder.sums()]

    def runs(self, index: int) -> list[tuple[Part, Callable[[], None]]]:
        """Each part with a function that replaces its inputs of a block by its outputs."""

        def advance(part: Part) -> None:
            for _, output in self._outputs(index, [part]):
                self._take(index, part, output)

        return [(part, functools.partial(advance, part)) for part in self._parts_at(index)]

    def sequences(self, index: int) -> list[Float[Tensor, "token width"]]:
        """Copy of the hidden states of each sequence as they enter a block, or left it; without padding."""
        masks = [part.tokens for part in self._parts_at(index)]
        if masks[0] is None:
            return list(self.hidden.clone())
        kept = torch.cat(masks).view(self.hidden.shape[:2])
        return [hidden[mask] for hidden, mask in zip(self.hidden, kept, strict=True)]

    def _parts_at(self, index: int) -> list[Part]:
        """All parts, as they enter a block."""
        if index not in self._stacks[self._stack]:
            self._enter(self._stack + 1)
        return self._parts

    def _enter(self, stack: int) -> None:
        """Record what enters the first block of a stack, and what its blocks are given beside."""
        blocks, before = self._stacks[stack], self._parts
        self._stack, self._parts, count = stack, [], sequence_count(self._batch)
        shared = record_calls(self._model, next(split(self._batch, 1)), blocks)[1] if self._is_uniform else None
        for place, batch in enumerate(split(self._batch, self._sequences)):
            output = self._outer(before[place].hidden) if before else None
            entered, calls = record_calls(self._model, batch, blocks[:1] if shared else blocks, output)
            if not place:
                hidden, spill = self._room(count, entered)
            start = place * self._sequences
            mine = hidden[start : start + len(entered)].copy_(entered)
            self._parts.append(Part(mine, shared or calls, len(mine) if shared else 1, **self._masks(batch)))
            if spill:
                spill.release()
        self.hidden, self._spill = hidden, spill

    def _room(self, sequences: int, entered: Tensor) -> tuple[Tensor, Scratch | None]:
        """Room for hidden states of all sequences, and the file that holds them if one does."""
        shape = (sequences, *entered.shape[1:])
        spill = self._model.spill(math.prod(shape) * entered.element_size())
        return spill.tensor(shape, entered.dtype) if spill else entered.new_empty(shape), spill

    def _masks(self, batch: Batch) -> dict[str, Tensor | None]:
        """Masks of the part's tokens in this stack, and of the encoder's output where this is a decoder."""

        source, target = (token_mask(batch, is_target) for is_target in (False, True))
        source, target = (
            None if mask is None else mask.flatten().to(self._model.compute_device) for mask in (source, target)
        )
        return {"tokens": target, "source_tokens": source} if self._stack else {"tokens": source}

    def _recorded(
        self,
        recorder: "_Recorder",
        layers: dict[str, nn.Module],
        outputs: Iterable[tuple[Part, Output | None]],
        advance: int | None = None,
    ) -> None:
        """Go through outputs with a recorder's hooks on; they replace the inputs of block `advance`."""
        handles = [layer.register_forward_pre_hook(recorder.hook(name)) for name, layer in layers.items()]
        try:
            for part, output in outputs:
                if advance is not None:
                    self._take(advance, part, output)
        finally:
            for handle in handles:
                handle.remove()
        if unreached := [name for name in layers if name not in recorder.leader]:
            raise ModelError(f"No calibration token reached {', '.join(unreached)}; exclude them with exclude=[...].")

    def _outputs(
        self, index: int, parts: Iterable[Part], recorder: "_Recorder | None" = None
    ) -> Iterator[tuple[Part, Output | None]]:
        """Output of a block for each part; None where the recorder ended it."""
        for part in parts:
            if recorder:
                recorder.begin(part)
            try:
                output = part.run(self._blocks[index], index - self._stacks[self._stack].start)
            except EnoughSeen:
                output = None
            yield part, output
            if self._spill:
                self._spill.release()

    def _take(self, index: int, part: Part, output: Output) -> None:
        part.take(output, index - self._stacks[self._stack].start)
        if isinstance(output, tuple):
            rest = (None,) * (len(output) - 1)
            self._outer = lambda hidden: (hidden, *rest)


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
        self._part: Part
        self._seen: dict[str, Tensor] = {}
        self._reached: set[str] = set()

    def hook(self, name: str) -> Callable[[nn.Module, tuple], None]:
        def before_forward(_layer: nn.Module, args: tuple) -> None:
            inputs = args[0]
            self.leader[name] = next((other for other, seen in self._seen.items() if seen is inputs), name)
            if self.leader[name] == name:
                self._add(name, self._statistic(self._part.rows(inputs)))
                self._seen[name] = inputs
            self._reached.add(name)
            if len(self._reached) == self._expected:
                raise EnoughSeen

        return before_forward

    def begin(self, part: Part) -> None:
        """Take what follows as inputs of another part."""
        self._part = part
        self._seen.clear()
        self._reached.clear()

    def sums(self) -> list[InputSum]:
        return [
            InputSum([name for name, leader in self.leader.items() if leader == first], summed)
            for first, summed in self._summed.items()
        ]

    def _add(self, name: str, value: Statistic) -> None:
        self._summed[name] = self._merge(self._summed[name], value) if name in self._summed else value
