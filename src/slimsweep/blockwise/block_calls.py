"""Inputs of a model's blocks: hidden states, and the other arguments of a block's forward."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel

Output = Tensor | tuple[Any, ...]
"""Output of a block: hidden states, or a tuple that begins with them."""


@dataclass(frozen=True)
class Call:
    """Arguments of a block's forward beside its hidden states."""

    args: tuple
    kwargs: dict[str, Any]
    handed: dict[int | str, int] = field(default_factory=dict)
    """Arguments, by place or name, that the block before hands on, and their place in the tail of its output.

    T5's first block makes the position bias of all blocks, for instance.
    """

    def filled(self, tail: Sequence[Any], sequences: int) -> tuple[tuple, dict[str, Any]]:
        """Arguments for a part of a batch, with those that the block before handed on.

        Args:
            tail: output of the block before without its hidden states.
            sequences: repeats ALiBi's table, where it was recorded from one sequence; other arguments broadcast.
        """
        args = tuple(
            tail[self.handed[place]] if place in self.handed else value for place, value in enumerate(self.args)
        )
        kwargs = self.kwargs | {name: tail[place] for name, place in self.handed.items() if isinstance(name, str)}
        alibi = kwargs.get("alibi")
        if alibi is not None and sequences > 1:
            kwargs["alibi"] = alibi.repeat(sequences, *(1,) * (alibi.dim() - 1))
        return tuple(args), kwargs


class EnoughSeen(Exception):
    """Ends a forward whose rest is not needed."""


def record_calls(
    model: LanguageModel, batch: Batch, blocks: range, before: Output | None = None
) -> tuple[Float[Tensor, "sequence token width"], list[Call]]:
    """Hidden states as they enter the first of some blocks, and what each of them is given beside, in one forward.

    The model's own code runs between the blocks. So rotary tables, masks, norms between two stacks and kinds of
    attention of any family need no code here.

    Args:
        blocks: consecutive blocks; the forward ends at the last one.
        before: output of the last block before them. Blocks before them then do not run.
    """
    recorder, every = _Recorder(blocks), model.blocks
    handles = [
        handle
        for index in blocks
        for handle in (
            every[index].register_forward_pre_hook(recorder.entering(index), with_kwargs=True),
            every[index].register_forward_hook(recorder.leaving),
        )
    ]
    try:
        with _skipped(every[: blocks.start] if before is not None else [], before):
            model.hidden_states(batch)
    except EnoughSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return recorder.hidden, recorder.calls


class _Recorder:
    """Hooks that note what blocks are given."""

    def __init__(self, blocks: range):
        self.calls: list[Call] = []
        self.hidden: Tensor
        self._blocks = blocks
        self._tail: tuple[Any, ...] = ()

    def entering(self, index: int) -> Callable[[nn.Module, tuple, dict], None]:
        def before_forward(_block: nn.Module, args: tuple, kwargs: dict) -> None:
            hidden, call = _hidden_and_rest(args, kwargs, self._tail)
            if index == self._blocks.start:
                self.hidden = hidden
            self.calls.append(call)
            if index == self._blocks[-1]:
                raise EnoughSeen

        return before_forward

    def leaving(self, _block: nn.Module, _args: tuple, output: Output) -> None:
        self._tail = tail_of(output)


@contextmanager
def _skipped(blocks: Sequence[nn.Module], output: Output | None) -> Iterator[None]:
    """Let the forward of some blocks return an output at once."""
    for block in blocks:
        block.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def hidden_of(output: Output) -> Tensor:
    """Hidden states in the output of a block."""
    return output[0] if isinstance(output, tuple) else output


def tail_of(output: Output) -> tuple[Any, ...]:
    """Output of a block without its hidden states."""
    return output[1:] if isinstance(output, tuple) else ()


def _hidden_and_rest(args: tuple, kwargs: dict, tail: tuple[Any, ...]) -> tuple[Tensor, Call]:
    """A block's hidden states, which come first or by name, and the rest without any cache of keys."""
    from transformers.cache_utils import Cache

    if not args:
        kwargs = dict(kwargs)
        args = (kwargs.pop("hidden_states"),)
    rest = tuple(None if isinstance(value, Cache) else value for value in args[1:])
    named = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    places = {id(value): place for place, value in enumerate(tail) if isinstance(value, Tensor)}
    handed = {key: places[id(value)] for key, value in (*enumerate(rest), *named.items()) if id(value) in places}
    rest = tuple(None if place in handed else value for place, value in enumerate(rest))
    return args[0], Call(rest, {name: None if name in handed else value for name, value in named.items()}, handed)
