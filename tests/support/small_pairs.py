"""Small encoder-decoders with random weights, and pairs that they can read."""

import random
from pathlib import Path

import torch
from family_shapes import ENCODER_DECODERS

from slimsweep.models.sources.random import RandomModel

LONGEST = {"bart": 40, "marian": 40}
"""Positions of what has any."""


def seq2seq(family: str, folder: Path, **shape) -> RandomModel:
    """Random encoder-decoder of a family, with one id per byte."""
    positions = {"max_position_embeddings": LONGEST[family]} if family in LONGEST else {}
    shape = ENCODER_DECODERS[family] | positions | shape
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
