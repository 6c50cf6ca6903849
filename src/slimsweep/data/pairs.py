"""Pairs of a source and its target, as in translation or summarization: read, split, tokenized, made into batches."""

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from slimsweep.data.rows import KINDS, kind_of, read_file
from slimsweep.errors import CorpusError
from slimsweep.models.batches import IGNORED, Batch
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.paths import project_path

TABLES = tuple(kind for kind in KINDS if kind != "txt")
"""Endings of files with columns."""
HELD_OUT_PART = 5
"""One pair in so many is held out of calibration."""
SHOWN_COLUMNS = 12


@dataclass(frozen=True)
class Pair:
    """A source and its target."""

    row: int
    """Number of its row in the file, or of its line in both files, from 1."""
    source: str
    target: str

    @functools.cached_property
    def source_digest(self) -> bytes:
        """SHA-256 of the source."""
        return hashlib.sha256(self.source.encode()).digest()

    @property
    def is_held_out(self) -> bool:
        """Whether the pair is for measuring, by its source: pairs with one source stay on one side."""
        return int.from_bytes(self.source_digest[:8]) % HELD_OUT_PART == 0


@dataclass(frozen=True)
class Pairs:
    """Pairs as read, in the order of their file."""

    pairs: tuple[Pair, ...]
    digest: str
    """SHA-256 over all sources and targets, whatever the file's format."""
    origin: str
    """Path of the file, or of both."""


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids, with the special tokens that the tokenizer adds."""

    row: int
    source: list[int]
    target: list[int]


# Jobs of one process share what they read; keys hold size and time of the files, so a changed file is read again.
_pairs: dict[tuple, Pairs] = {}
_token_pairs: dict[tuple[str, str], tuple[TokenPair, ...]] = {}


def read_pairs(path: str, columns: tuple[str, str], target_path: str | None = None, where: str = "") -> Pairs:
    """Pairs of one file with two columns, or of two text files whose lines correspond; read once per process.

    A relative path counts from the working directory, else from the project root.

    Args:
        columns: of source and target, in a file with columns.
        target_path: text file with the target of each line of `path`, which then holds sources alone.
        where: beginning of the settings that messages name, such as `calibration.`.

    Raises:
        CorpusError: no such file, unequal numbers of lines, or a row without source or target.
    """
    files = [existing_file(given) for given in (path, target_path) if given]
    key = (columns, *((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    if key not in _pairs:
        rows = _table(files[0], columns, where) if target_path is None else read_lines(*files, where)
        origin = " and ".join(map(str, files))
        pairs = tuple(_pair(number, *texts, origin) for number, texts in enumerate(rows, 1))
        if not pairs:
            raise CorpusError(f"{origin} holds no pair")
        content = "\n".join(f"{pair.source}\0{pair.target}" for pair in pairs)
        _pairs[key] = Pairs(pairs, hashlib.sha256(content.encode()).hexdigest(), origin)
    return _pairs[key]


def token_pairs(pairs: Pairs, tokenizer: Any) -> tuple[TokenPair, ...]:
    """Token ids of all pairs in the order of the file, once per process; targets as the tokenizer spells targets."""
    key = (pairs.digest, tokenizer_digest(tokenizer))
    if key not in _token_pairs:
        sources = tokenizer([pair.source for pair in pairs.pairs], verbose=False)["input_ids"]
        targets = tokenizer(text_target=[pair.target for pair in pairs.pairs], verbose=False)["input_ids"]
        _token_pairs[key] = tuple(
            TokenPair(pair.row, source, target)
            for pair, source, target in zip(pairs.pairs, sources, targets, strict=True)
        )
    return _token_pairs[key]


def draw(pairs: Sequence[TokenPair], count: int, seed: int) -> list[TokenPair]:
    """So many different pairs; equal seeds draw equal ones."""
    return random.Random(seed).sample(pairs, count)


def pair_batch(pairs: Sequence[TokenPair], config: Any) -> Batch:
    """One batch of pairs, padded on the right to its longest source and its longest target.

    The decoder reads the target shifted by one place, behind the config's `decoder_start_token_id`, as
    transformers' own `shift_tokens_right` does for BART and Marian, and `_shift_right` for T5.
    """
    padding = getattr(config, "pad_token_id", None) or 0
    input_ids, attention_mask = _padded([pair.source for pair in pairs], padding)
    targets, decoder_mask = _padded([pair.target for pair in pairs], padding)
    decoder_input_ids = targets.roll(1, dims=1)
    decoder_input_ids[:, 0] = decoder_start(config)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "decoder_input_ids": decoder_input_ids,
        "decoder_attention_mask": decoder_mask,
        "labels": targets.masked_fill(decoder_mask == 0, IGNORED),
    }


def decoder_start(config: Any) -> int | None:
    """Id that the decoder begins with. Configs of T5 may lack it, and T5 begins with its padding token."""
    given = getattr(config, "decoder_start_token_id", None)
    return getattr(config, "pad_token_id", None) if given is None else given


def _padded(
    sequences: Sequence[list[int]], padding: int
) -> tuple[Int[Tensor, "sequence token"], Int[Tensor, "sequence token"]]:
    """Sequences in one tensor, and its mask: 1 for a token, 0 for padding."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.full_like(mask, padding)
    ids[mask.bool()] = torch.tensor([token_id for sequence in sequences for token_id in sequence])
    return ids, mask


def existing_file(given: str) -> Path:
    path = Path(given).expanduser()
    path = path.absolute() if path.is_file() else project_path(path)
    if not path.is_file():
        raise CorpusError(f"no file {given} for the pairs (looked in {Path.cwd()} and {path.parent})")
    return path


def _table(path: Path, columns: tuple[str, str], where: str) -> list[tuple[Any, Any]]:
    """Sources and targets of a file with columns."""
    if kind_of(path) not in TABLES:
        raise CorpusError(
            f"{path} ends in none of .{', .'.join(TABLES)}, with or without .gz, so it has no two columns: give such a "
            f"file, or add {where}target_path=FILE with one target for each line"
        )
    rows = read_file(path)
    for number, row in enumerate(rows, 1):
        if absent := [column for column in columns if not isinstance(row.get(column), str)]:
            names = [f"{name:.40}" for name in row if isinstance(name, str)]
            there = ", ".join(names[:SHOWN_COLUMNS]) or "none"
            raise CorpusError(
                f"{path}: row {number} has no text in its column {' or '.join(map(repr, absent))}; columns there: "
                f"{there}. Name the columns: {where}source_column=NAME {where}target_column=NAME"
            )
    return [(row[columns[0]], row[columns[1]]) for row in rows]


def read_lines(source_path: Path, target_path: Path, where: str = "") -> list[tuple[str, str]]:
    """Sources and targets of two text files whose lines correspond, without their line ends.

    Raises:
        CorpusError: unequal numbers of lines, or a file with columns.
    """
    for path in (source_path, target_path):
        if kind_of(path) in TABLES:
            raise CorpusError(
                f"{path} has columns, and two files of pairs are plain text: leave {where}target_path out"
            )
    sources, targets = (
        [row["text"].removesuffix("\n") for row in read_file(path)] for path in (source_path, target_path)
    )
    if len(sources) != len(targets):
        raise CorpusError(
            f"{source_path} has {len(sources)} lines and {target_path} has {len(targets)}: line n of one is the source "
            "of line n of the other, so both need equally many"
        )
    return list(zip(sources, targets, strict=True))


def _pair(row: int, source: str, target: str, origin: str) -> Pair:
    for name, text in (("source", source), ("target", target)):
        if not text.strip():
            raise CorpusError(f"{origin}: row {row} has an empty {name}: remove the row, or fill it")
    return Pair(row, source, target)
