"""Tokens that go through a model at once: as many as are fast, and on a GPU as memory allows."""

from typing import Any

from slimsweep.linear.base import layer_shape
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement.loading import free_bytes

BATCH_TOKENS = 2048
"""Tokens of one forward through a block on a CPU: enough for full speed; twice as many are slower, by 7 %."""
GPU_BATCH_TOKENS = 16384
"""The same on a GPU with room for it, where small batches take as long as large ones: an H200 runs SmolLM2 on four
times as many tokens in the same time, from 4,096 to 16,384."""
GPU_SHARE = 8
"""A forward may take one part in this many of a GPU's free memory."""
LIVE_NUMBERS = 8
"""Approximate number of fp32 activations of the widest layer that are alive at once, per token and channel."""

HEAD_NUMBERS = 2**25
"""Logits held at once (128 MiB in fp32), whatever the vocabulary."""
LOSS_NUMBERS = 2**21
"""Logits whose loss a CPU computes at once: what lies between them and the loss then stays in a cache."""


def batch_tokens(model: LanguageModel) -> int:
    """Tokens of one forward through a block, or through all of them one after another."""
    if model.compute_device.type == "cpu":
        return BATCH_TOKENS
    widths = (
        width for block in model.blocks for layer in model.linears(block).values() for width in layer_shape(layer)
    )
    return gpu_batch_tokens(max(widths, default=1), free_bytes(model.compute_device))


def gpu_batch_tokens(width: int, free: int) -> int:
    """Tokens of one forward through a block whose widest layer is so wide, with so many bytes free on the GPU."""
    tokens = GPU_BATCH_TOKENS
    # By halves, so that a little more or less memory seldom changes how sums are rounded.
    while tokens > BATCH_TOKENS and tokens * LIVE_NUMBERS * 4 * width > free // GPU_SHARE:
        tokens //= 2
    return tokens


def longest_context(config: Any) -> int | None:
    """Tokens a model takes at most, or None where its transformers config does not say."""
    text = config.get_text_config()
    if hasattr(text, "relative_attention_num_buckets"):  # T5: `n_positions` in some of its configs is read by nothing
        return None
    return getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
