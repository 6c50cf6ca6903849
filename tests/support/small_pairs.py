"""Small encoder-decoders with random weights, and pairs that they can read."""

import random
from pathlib import Path

import torch

from slimsweep.models.sources.random import RandomModel

BART = {
    "model_type": "bart",
    "vocab_size": 260,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 260,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
MARIAN = BART | {"model_type": "marian"}
SHAPES = {"bart": BART, "marian": MARIAN, "t5": T5}


def seq2seq(family: str, folder: Path, **shape) -> RandomModel:
    """Random encoder-decoder of a family, with one id per byte."""
    shape = SHAPES[family] | shape
    return RandomModel(name=family, task="seq2seq_lm", shape=shape, cache_dir=str(folder))


def words(count: int, longest: int = 12) -> list[tuple[str, str]]:
    """Words of different lengths, each with its letters from behind as its target."""
    chance = random.Random(0)
    texts = ["".join(chance.choices("abcdefghij", k=chance.randint(2, longest))) for _ in range(count)]
    return [(text, text[::-1] + "!") for text in texts]


def pair_table(folder: Path, pairs: list[tuple[str, str]]) -> str:
    """Path of a .tsv file of the pairs."""
    path = folder / "pairs.tsv"
    path.write_text("source\ttarget\n" + "".join(f"{source}\t{target}\n" for source, target in pairs))
    return str(path)


def saved_seq2seq(family: str, folder: Path) -> Path:
    """Folder of a random encoder-decoder, with its tokenizer."""
    source = seq2seq(family, folder)
    source.load(torch.float32, torch.device("cpu")).module.save_pretrained(folder / family)
    source.tokenizer().save_pretrained(folder / family)
    return folder / family
