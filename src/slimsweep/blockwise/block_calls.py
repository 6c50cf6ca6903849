"""Inputs of a model's blocks: hidden states, and the other arguments of a block's forward."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.models.batches import Batch, sequence_count, split
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement.scratch import Scratch


@dataclass(frozen=True)
class Call:
    """Arguments of a block's forward beside its hidden states."""

    args: tuple
    kwargs: dict[str, Any]

    def repeated(self, sequences: int) -> dict[str, Any]:
        """Named arguments for a batch. ALiBi's table is repeated for each sequence; other arguments broadcast."""
        alibi = self.kwargs.get("alibi")
        if alibi is None or sequences == 1:
            return self.kwargs
        return self.kwargs | {"alibi": alibi.repeat(sequences, *(1,) * (alibi.dim() - 1))}


class EnoughSeen(Exception):
    """Ends a forward whose rest is not needed."""


def record_calls(model: LanguageModel, batch: Batch) -> list[Call]:
    """Record the arguments that each block takes beside hidden states, in one forward of the model."""
    calls: dict[int, Call] = {}

    def record(index: int) -> Callable[[nn.Module, tuple, dict], None]:
        def before_forward(_block: nn.Module, args: tuple, kwargs: dict) -> None:
            _, call = _hidden_and_rest(args, kwargs)
            calls[index] = call

        return before_forward

    handles = [
        block.register_forward_pre_hook(record(index), with_kwargs=True) for index, block in enumerate(model.blocks)
    ]
    try:
        model.hidden_states(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [calls[index] for index in range(len(model.blocks))]


def first_inputs(
    model: LanguageModel, batch: Batch, sequences: int
) -> tuple[Float[Tensor, "sequence token width"], Scratch | None]:
    """Hidden states of all sequences as they enter the first block, and the file that holds them if one does."""
    first = _entering(model, next(split(batch, 1)))
    shape = (sequence_count(batch), *first.shape[1:])
    spill = model.spill(math.prod(shape) * first.element_size())
    hidden = spill.tensor(shape, first.dtype) if spill else first.new_empty(shape)
    for part, place in zip(split(batch, sequences), hidden.split(sequences), strict=True):
        place.copy_(_entering(model, part))
        if spill:
            spill.release()
    return hidden, spill


def _entering(model: LanguageModel, batch: Batch) -> Float[Tensor, "batch token width"]:
    """Hidden states of one batch as they enter the first block; the forward ends there."""
    entered: list[Tensor] = []

    def before_forward(_block: nn.Module, args: tuple, kwargs: dict) -> None:
        entered.append(_hidden_and_rest(args, kwargs)[0])
        raise EnoughSeen

    handle = model.blocks[0].register_forward_pre_hook(before_forward, with_kwargs=True)
    try:
        model.hidden_states(batch)
    except EnoughSeen:
        pass
    finally:
        handle.remove()
    return entered[0]


def _hidden_and_rest(args: tuple, kwargs: dict) -> tuple[Tensor, Call]:
    """A block's hidden states, which come first or by name, and the rest without any cache of keys."""
    from transformers.cache_utils import Cache

    if not args:
        kwargs = dict(kwargs)
        args = (kwargs.pop("hidden_states"),)
    rest = tuple(None if isinstance(value, Cache) else value for value in args[1:])
    named = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    return args[0], Call(rest, named)
