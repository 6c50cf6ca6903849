"""Entry of the stage cache: a folder with a saved model or statistics, and a file that accounts for every byte."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from slimsweep.models.language_model import CPU, LanguageModel, weights_digest
from slimsweep.models.storage.saved_model import save_with_manifest
from slimsweep.numerics.parallel import parallel_map
from slimsweep.pipeline.keys import StageKey, canonical

FORMAT = 4
"""Format of entries; one of another format is computed again. 3: a digest of digests of tensors; 4: masks."""
ENTRY = "entry.json"
STAMP = "used"
"""Empty file; its modification time is that of the last use."""


@dataclass(frozen=True)
class Kept:
    """A verified entry: a folder that saved_model.read reads, and what its file says."""

    folder: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Listed:
    """One line of the list; an entry that cannot be read has no model and no chain."""

    digest: str
    model: str
    chain: str
    bytes: int
    seconds: float
    """Time that all its stages took when they were computed."""
    last_used: float
    """Seconds since 1970."""


def write(folder: Path, key: StageKey, model: LanguageModel, state: dict[str, Any]) -> None:
    """Write a stage's result into an empty folder.

    Args:
        state: What else a job needs to go on from here, as plain values; `stages` as in a record.
    """
    save_with_manifest(model, folder)
    own = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "original_parameters": model.original_parameters,
        "weights_digest": weights_digest(model),
        "state": state,
    }
    seal(folder, key, own)


def seal(folder: Path, key: StageKey, own: dict[str, Any]) -> None:
    """Make an entry of a folder's files, with what else it should say; `own["state"]["stages"]` says what it took."""
    content = {
        "format": FORMAT,
        "key": key.parts,
        "model": key.model,
        "chain": key.label,
        "files": _file_digests(sorted(folder.iterdir())),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    content = json.loads(json.dumps(content | own, default=str))
    (folder / ENTRY).write_text(json.dumps({"digest": _digest(content), "content": content}, indent=1))
    (folder / STAMP).touch()


def read(folder: Path, key: StageKey) -> Kept:
    """The entry in a folder, every byte of it verified.

    Raises:
        ValueError: a byte of it, or a file, is not what was written, or it was written for another key.
        OSError: a file is missing.
    """
    content = _content(folder)
    if content.get("format") != FORMAT:
        raise ValueError(f"its format is {content.get('format')}, not {FORMAT}")
    if canonical(content["key"]) != canonical(key.parts):
        raise ValueError("it was written for another key")
    found = {path.name for path in folder.iterdir()} - {ENTRY, STAMP}
    if odd := sorted(found ^ set(content["files"])):
        raise ValueError(f"files missing or added: {', '.join(odd)}")
    digests = _file_digests([folder / name for name in content["files"]])
    if other := [name for name, digest in content["files"].items() if digests[name] != digest]:
        raise ValueError(f"{other[0]} has other bytes than were written")
    return Kept(folder, content)


def written_digest(folder: Path) -> str | None:
    """Digest of the weights that an entry says it holds; None where it cannot be read."""
    try:
        return _content(folder)["weights_digest"]
    except (OSError, ValueError):
        return None


def listed(folder: Path) -> Listed | None:
    """One line of the list, its files not verified; None where the entry went away meanwhile."""
    try:
        size = sum(path.stat().st_size for path in folder.iterdir())
        stamp = folder / STAMP
        last_used = (stamp if stamp.is_file() else folder).stat().st_mtime
    except OSError:
        return None
    try:
        content = _content(folder)
    except (OSError, ValueError):
        return Listed(folder.name, "", "", size, 0.0, last_used)
    seconds = sum(stage["seconds"] for stage in content["state"]["stages"])
    return Listed(folder.name, content["model"], content["chain"], size, seconds, last_used)


def _content(folder: Path) -> dict[str, Any]:
    entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
    if not isinstance(entry, dict) or entry.get("digest") != _digest(entry.get("content")):
        raise ValueError(f"{ENTRY} has other bytes than were written")
    return entry["content"]


def _file_digests(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of files by name."""

    def of_file(path: Path) -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return {path.name: digest for path, digest in zip(paths, parallel_map(of_file, paths, CPU), strict=True)}


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def format_bytes(size: int) -> str:
    """A number of bytes in MB or GB: `1.5 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
