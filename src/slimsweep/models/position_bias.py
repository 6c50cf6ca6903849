"""Attention whose heads read a bias of each pair of positions that the first block makes for all blocks (T5).

The table of biases has a column for each head of the dense model. Attention that lost heads reads the columns of those
it kept, and hands all columns on to the next block:

    first block: table -> bias [1, all heads, query, key] -> its own heads' columns -> scores
                                  |
    next block:                   bias, all heads         -> its own heads' columns -> scores
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

KEPT = "kept_heads"
"""Buffer of an attention module: its heads by their column of the table. Saved with the weights."""


def keep_heads(attention: nn.Module, kept: Sequence[int], before: int) -> None:
    """Let an attention module read the columns of the heads it kept.

    Args:
        kept: heads by their place among those the module had, in order.
        before: number of heads the module had.
    """
    columns = getattr(attention, KEPT, None)
    device = next(attention.parameters()).device
    columns = torch.arange(before, device=device) if columns is None else columns
    attention.register_buffer(KEPT, columns[torch.tensor(kept, dtype=torch.long, device=device)])
    if not isinstance(attention, SelectsHeads):
        attention.__class__ = _selecting(type(attention))


def give_table(former: nn.Module, first: nn.Module) -> None:
    """Hand the table of biases of a stack's former first attention to its first one now."""
    first.relative_attention_bias, first.has_relative_attention_bias = former.relative_attention_bias, True


class SelectsHeads:
    """Mix-in of an attention module that has some of the table's heads."""

    def forward(
        self, hidden_states: Tensor, mask: Any = None, key_value_states: Any = None, position_bias: Any = None, **rest
    ) -> tuple[Any, ...]:
        """The attention of the heads it kept; the second output is the bias of all heads."""
        if position_bias is None:
            position_bias = self._bias_of_all(hidden_states, key_value_states, rest.get("past_key_values"))
        mine = position_bias if position_bias.shape[1] == 1 else position_bias[:, getattr(self, KEPT)]
        output, _, *weights = super().forward(
            hidden_states, mask=mask, key_value_states=key_value_states, position_bias=mine, **rest
        )
        return output, position_bias, *weights

    def _bias_of_all(self, hidden_states: Tensor, key_value_states: Tensor | None, past: Any) -> Tensor:
        """Bias of all heads; zeros for one head, which broadcast, where the module has no table."""
        queries, seen = hidden_states.shape[1], 0
        if key_value_states is None and past is not None:
            seen = int(past.get_seq_length(self.layer_idx))
        keys = queries + seen if key_value_states is None else key_value_states.shape[1]
        if not self.has_relative_attention_bias:
            return hidden_states.new_zeros(1, 1, queries, keys)
        return self.compute_bias(queries, keys, device=hidden_states.device, past_seen_tokens=seen)


@functools.cache
def _selecting(attention: type[nn.Module]) -> type[nn.Module]:
    """The class of an attention module with SelectsHeads before it."""
    return type(attention.__name__, (SelectsHeads, attention), {"__module__": attention.__module__})
