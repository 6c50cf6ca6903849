"""The trained grapheme-to-phoneme BART as a model folder: its characters become a tokenizer, its words a pair file."""

import json
import shutil
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
"""Ids 0 to 3."""


def characters(folder: Path) -> tuple[str, str]:
    """Grapheme and phoneme of each id, the first four of which are special tokens."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config["grapheme_chars"], config["phoneme_chars"]


def tokenizer_of(graphemes: str, phonemes: str) -> PreTrainedTokenizerFast:
    """One id per character, between <s> and </s>, for words and for phonemes.

    From id 4 on an id is a grapheme in a source and a phoneme in a target. A tokenizer has one text for an id, so each
    phoneme is first replaced by the grapheme of its id; no character has two ids.
    """
    symbols = [*SPECIAL, *graphemes[len(SPECIAL) :], *phonemes[len(graphemes) :]]
    tokenizer = Tokenizer(models.WordLevel({symbol: index for index, symbol in enumerate(symbols)}, unk_token="<unk>"))
    replaced = [(phoneme, symbol) for phoneme, symbol in zip(phonemes, symbols, strict=False) if phoneme != symbol]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(phoneme, grapheme) for phoneme, grapheme in replaced[len(SPECIAL) :]]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def write_g2p(shared: Path, folder: Path) -> tuple[Path, Path]:
    """Write a model folder with a tokenizer below `folder`; returns it and the file of pairs.

    The pairs have the columns `word` and `phonemes`.
    """
    original, made = shared / "models" / "bart-g2p-us", folder / "bart-g2p-us"
    made.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(original / name, made / name)
    tokenizer_of(*characters(original)).save_pretrained(made)
    return made, original / "words.tsv.gz"


def phonemes_of(token_ids: list[int], phonemes: str) -> str:
    """Text of generated ids; special tokens have none."""
    return "".join(phonemes[index] for index in token_ids if index >= len(SPECIAL))
