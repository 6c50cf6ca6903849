"""Batches: named tensors of some sequences, as a model's forward takes them."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Batch = dict[str, Tensor]
"""Named tensors whose first dimension counts sequences. Sequences of different lengths are padded to one length.

- `input_ids` [sequence token]
- `attention_mask` [sequence token]: 1 for a token, 0 for padding; absent where nothing is padded
- `decoder_input_ids`, `decoder_attention_mask` [sequence target]: the same of a decoder that reads an encoder
- `labels`: [sequence token], [sequence target] or [sequence]; -100 (`IGNORED`) where nothing is predicted
"""
IGNORED = -100
"""Label of a place where nothing is predicted; the loss leaves it out."""


def text_batch(token_ids: Int[Tensor, "sequence token"]) -> Batch:
    """Batch of text without padding."""
    return {"input_ids": token_ids}


def sequence_count(batch: Batch) -> int:
    """Number of sequences in a batch."""
    return len(batch["input_ids"])


def split(batch: Batch, sequences: int) -> Iterator[Batch]:
    """Consecutive parts of so many sequences; the last part may have fewer."""
    for start in range(0, sequence_count(batch), sequences):
        yield {name: values[start : start + sequences] for name, values in batch.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    return {name: values.to(device) for name, values in batch.items()}


def token_mask(batch: Batch, is_target: bool = False) -> Bool[Tensor, "sequence token"] | None:
    """False for padding; None where nothing is padded.

    Args:
        is_target: whether of the places of a decoder that reads an encoder.
    """
    name = "decoder_attention_mask" if is_target else "attention_mask"
    return batch[name].bool() if name in batch else None


def padding_id(tokenizer: Any) -> int:
    """Token id of padded places, which masks leave out: the tokenizer's, else that of the end, else 0."""
    given = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return given or 0
