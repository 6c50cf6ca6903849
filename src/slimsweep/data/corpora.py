"""Texts and token ids by corpus name: found, read, checked, tokenised once per process."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from slimsweep.data.corpus import CORPORA, Corpus
from slimsweep.data.rows import KINDS, Rows, kind_of
from slimsweep.errors import CorpusError
from slimsweep.hints import allowed_names
from slimsweep.models.sources.tokenizer_digest import tokenizer_digest
from slimsweep.paths import project_path

SHORT_DIGEST = 8
"""Hexadecimal digits of a digest in a protocol id."""
SHOWN_COLUMNS = 12


@dataclass(frozen=True)
class Text:
    """A corpus as read: its documents in order and the digest of what the tokenizer sees."""

    corpus: Corpus
    documents: list[str]
    digest: str
    """SHA-256 of the joined documents, so that a local copy and the hub agree when the text does."""
    origin: str

    @property
    def joined(self) -> str:
        """The whole text, one string."""
        return self.corpus.join.join(self.documents)


# Jobs of one process share what they read; keys hold the file's size and time, so a changed file is read again.
_texts: dict[tuple, Text] = {}
_token_ids: dict[tuple[str, str], Tensor] = {}
_token_bytes: dict[tuple[str, str], Tensor | None] = {}


class Corpora:
    """Every corpus by name, or a user's file as `{name: mine, path: FILE, column: text}`."""

    def __init__(self, data_dir: Path | None, cache_dir: Path):
        """`data_dir` holds local copies, which win over the hub; `cache_dir` takes what the hub sends."""
        self.data_dir = data_dir
        self.cache_dir = cache_dir

    def fault(self, corpus: str | dict[str, str]) -> str | None:
        """Read a corpus, whose digest is needed next; returns the reason why it cannot be read, or None."""
        try:
            self.text(corpus)
        except CorpusError as error:
            return str(error)
        return None

    def text(self, corpus: str | dict[str, str]) -> Text:
        """The documents of a corpus, read once per process.

        Raises:
            CorpusError: unknown name, neither local nor reachable, empty or damaged.
        """
        spec = user_file(corpus) if isinstance(corpus, dict) else named(corpus)
        path = spec.rows.local_path(self.data_dir)
        stamp = (str(path), path.stat().st_size, path.stat().st_mtime_ns) if path else None
        key = (spec.name, spec.column, stamp)
        if key not in _texts:
            _texts[key] = self._read(spec)
        return _texts[key]

    def _read(self, spec: Corpus) -> Text:
        rows, origin = spec.rows.read(self.data_dir, self.cache_dir, spec.column)
        for number, row in enumerate(rows[: spec.first], 1):
            if not isinstance(row.get(spec.column), str):
                raise CorpusError(_without_text(spec, origin, number, row))
        documents = spec.documents(rows)
        if not any(documents):
            raise CorpusError(f"{origin} holds no text")
        digest = hashlib.sha256(spec.join.join(documents).encode()).hexdigest()
        return Text(spec, documents, digest, origin)

    def token_ids(self, corpus: str | dict[str, str], tokenizer: Any) -> Int[Tensor, " token"]:
        """The joined text, tokenised as a whole with the tokenizer's default special tokens, once per process.

        Raises:
            CorpusError: as `text`.
        """
        text = self.text(corpus)
        key = (text.digest, tokenizer_digest(tokenizer))
        if key not in _token_ids:
            _token_ids[key] = tokenize(text.joined, tokenizer)
        return _token_ids[key]

    def token_bytes(self, corpus: str | dict[str, str], tokenizer: Any) -> Int[Tensor, " token"] | None:
        """Bytes of UTF-8 text that each of `token_ids` stands for; None where the tokenizer does not tell places.

        A token stands for the text from the end of the token before it to its own end. So each byte counts once: blanks
        between two tokens count with the second one. A character that several tokens share counts with the
        first. Special tokens stand for nothing.

        Raises:
            CorpusError: as `text`.
        """
        text = self.text(corpus)
        key = (text.digest, tokenizer_digest(tokenizer))
        if key not in _token_bytes:
            _token_bytes[key] = token_bytes(text.joined, tokenizer)
        return _token_bytes[key]


def token_bytes(text: str, tokenizer: Any) -> Int[Tensor, " token"] | None:
    """Bytes of UTF-8 text that each token stands for, as `Corpora.token_bytes` says."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    places = tokenizer(text, verbose=False, return_offsets_mapping=True)["offset_mapping"]
    ends = torch.tensor([0, *(end for _, end in places)], dtype=torch.long).cummax(dim=0).values
    sizes = torch.tensor([0, *(len(character.encode()) for character in text)], dtype=torch.long).cumsum(dim=0)
    return sizes[ends].diff()


def _without_text(spec: Corpus, origin: str, number: int, row: dict[str, Any]) -> str:
    """A sentence about a row whose column is not there or holds no text."""
    if row.get(spec.column) is not None:
        return f"{origin}: row {number} has no text in its column {spec.column!r}, but {row[spec.column]!r:.40}"
    names = [f"{name:.40}" for name in row if isinstance(name, str)]
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    there = f"{', '.join(names[:SHOWN_COLUMNS])}{more}" if names else "none"
    choice = (
        ""
        if spec.split != "file"
        else (". Name the column that holds the text: calibration.column=NAME, or column: NAME beside a corpus's path")
    )
    return f"{origin}: row {number} has no text in its column {spec.column!r}; columns there: {there}{choice}"


def tokenize(text: str, tokenizer: Any) -> Int[Tensor, " token"]:
    """Token ids of one string with default special tokens, whatever length the model takes."""
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)


def named(name: str) -> Corpus:
    """The corpus of this name.

    Raises:
        CorpusError: unknown; near misses and all names are given.
    """
    if name not in CORPORA:
        names = allowed_names(name, CORPORA, "Known")
        raise CorpusError(f"no corpus {name!r}. {names}; or a file of yours: {{name: mine, path: FILE}}")
    return CORPORA[name]


def corpus_name(corpus: str | dict[str, str]) -> str:
    """The word that names a corpus in record fields."""
    return str(corpus.get("name", "")) if isinstance(corpus, dict) else corpus


def user_file(fields: dict[str, str]) -> Corpus:
    """A user's own text. A relative path counts from the working directory, else from the project root.

    Raises:
        CorpusError: fields missing or unknown, name taken or unusable, no such file.
    """
    if not {"name", "path"} <= set(fields) <= {"name", "path", "column"}:
        raise CorpusError(
            "a text of yours is {name: mine, path: FILE}, with column: NAME where its column is not named text; given "
            f"were the fields {sorted(fields)}"
        )
    name, given = str(fields["name"]), Path(str(fields["path"])).expanduser()
    if name in CORPORA or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise CorpusError(
            f"a text of yours cannot be named {name!r}: use small letters, digits and _, and none of the known "
            f"names ({', '.join(sorted(CORPORA))})"
        )
    path = given.absolute() if given.is_file() else project_path(given)
    if not path.is_file():
        raise CorpusError(f"no file {given} for the text {name!r} (looked in {Path.cwd()} and {path.parent})")
    if kind_of(path) not in KINDS:
        raise CorpusError(
            f"{path} ends in none of .{', .'.join(KINDS)}, with or without .gz: a .txt file is one document, the "
            "others hold one a row"
        )
    rows = Rows(files=(str(path),), one_document=True)
    column = fields.get("column")
    return Corpus(name=name, split="file", rows=rows, join="\n\n", column="text" if column is None else str(column))
