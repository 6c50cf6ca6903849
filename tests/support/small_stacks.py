"""Small random encoder-decoders, and batches of pairs of different lengths."""

import torch

from slimsweep.models.sources.random import RandomModel

BART = {
    "model_type": "bart",
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "init_std": 0.3,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 300,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
STACKS = {"bart": BART, "t5": T5, "t5_gated": T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}}
"""Shapes by name."""
SOURCES, TARGETS = [7, 4, 9], [3, 6, 5]
"""Lengths of the pairs of `pairs`."""


def encoder_decoder(name, cache_dir, seed=0):
    """A random encoder-decoder in fp32 on the CPU."""
    source = RandomModel(name=name, shape=STACKS[name], task="seq2seq_lm", cache_dir=str(cache_dir), seed=seed)
    return source.load(torch.float32, torch.device("cpu"))


def pairs(sources=SOURCES, targets=TARGETS):
    """Batch of random pairs of these lengths, padded on the right with tokens that are no padding elsewhere."""
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for name, mask, lengths in (
        ("input_ids", "attention_mask", sources),
        ("decoder_input_ids", "decoder_attention_mask", targets),
    ):
        batch[name] = torch.randint(4, 250, (len(lengths), max(lengths)), generator=generator)
        batch[mask] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    labels = torch.randint(4, 250, batch["decoder_input_ids"].shape, generator=generator)
    return batch | {"labels": labels.masked_fill(batch["decoder_attention_mask"] == 0, -100)}


def alone(batch, place):
    """One pair of a batch without its padding and without masks."""
    lengths = {
        "input_ids": int(batch["attention_mask"][place].sum()),
        "decoder_input_ids": int(batch["decoder_attention_mask"][place].sum()),
    }
    lengths["labels"] = lengths["decoder_input_ids"]
    return {name: batch[name][place : place + 1, :length] for name, length in lengths.items()}
