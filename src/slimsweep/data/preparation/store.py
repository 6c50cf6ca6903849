"""Folders of prepared datasets: where they are, which of them holds what a dataset asks for.

CACHE_DIR/prepared/NAME/KEY/train.parquet ... card.json card.md
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import Dataset, SplitSource
from slimsweep.errors import CorpusError

VERSIONS = {"text": 1, "labelled": 1, "pairs": 1, "conversations": 2, "problems": 1}
"""Version of the preparation of each kind, raised when the same sources and settings give other rows."""
CARD = "card.json"
TOKENIZER = "tokenizer"
"""Folder of a trained tokenizer."""
TOKENS = "tokens"
"""Folder of the splits as token ids."""
KEY_DIGITS = 16


@dataclass(frozen=True)
class Folder:
    """One preparation of a dataset."""

    path: Path
    card: dict[str, Any]
    """Settings, sources, steps and splits; see card.py."""

    @property
    def key(self) -> str:
        """Name of the folder."""
        return self.path.name

    def split_path(self, split: str) -> Path:
        """File of a split's rows."""
        return self.path / f"{split}.parquet"


def place(dataset: Dataset, corpora: Corpora) -> Path:
    """Folder of all preparations of a dataset."""
    return corpora.cache_dir / "prepared" / dataset.name


def key_of(settings: dict[str, Any], sources: dict[str, Any]) -> str:
    """Key of a preparation: hash of its settings, digests of its sources, and the version of its kind."""
    content = {"version": VERSIONS[settings["kind"]], "settings": settings, "sources": sources}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:KEY_DIGITS]


def folders(dataset: Dataset, corpora: Corpora) -> list[Folder]:
    """Whole preparations of a dataset, by key; damaged cards count as missing."""
    found = []
    for path in sorted(place(dataset, corpora).glob(f"[!.]*/{CARD}")):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(card, dict) and card.get("version") == VERSIONS[dataset.kind]:
            found.append(Folder(path.parent, card))
    return found


def matching(dataset: Dataset, corpora: Corpora, is_for_rows: bool = True) -> list[Folder]:
    """Preparations by these settings, whose sources are the local copies that are at hand.

    Sources that are not at hand now match any: what was prepared once is read without them. Those with the most splits
    come first.

    Args:
        is_for_rows: settings of the tokens may differ.
    """
    settings = dataset.row_settings() if is_for_rows else dataset.settings()
    at_hand = {split: local_digest(source, corpora) for split, source in dataset.splits.items()}
    found = [
        folder
        for folder in folders(dataset, corpora)
        if folder.card["row_settings" if is_for_rows else "settings"] == settings
        and all(
            folder.card["sources"].get(split, {}).get("digest") == digest
            for split, digest in at_hand.items()
            if digest is not None
        )
    ]
    return sorted(found, key=lambda folder: (-len(folder.card["splits"]), folder.key))


def local_digest(source: SplitSource, corpora: Corpora) -> str | None:
    """Digest of the local copy, or package, of a split; None where there is none.

    Raises:
        CorpusError: the file of the targets is missing.
    """
    rows = source.rows()
    if source.embedded:
        return f"{source.embedded} of {rows.read(None, corpora.cache_dir)[1]}"
    path = rows.local_path(corpora.data_dir)
    if path is None:
        return None
    target = source.target_path(path, corpora.data_dir)
    if target is not None and not target.is_file():
        raise CorpusError(f"{path} holds sources, and there is no file {target} with their targets")
    digests = [_file_digest(file, *_stamp(file)) for file in (path, target) if file]
    return " ".join(digests)


def _stamp(file: Path) -> tuple[int, int]:
    return file.stat().st_size, file.stat().st_mtime_ns


@functools.lru_cache(maxsize=256)
def _file_digest(file: Path, size: int, time: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def rows_digest(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """SHA-256 of the standard columns of rows in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row[name] for name in columns], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
