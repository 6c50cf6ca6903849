"""Results of stages kept on disk, so that no chain computes again what some chain has computed before."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from slimsweep.errors import SlimsweepError
from slimsweep.keys import StageKey, canonical
from slimsweep.models.language_model import LanguageModel, weights_digest
from slimsweep.models.reduced import save_with_manifest, saved_tensors
from slimsweep.record import write_text

log = logging.getLogger(__name__)

FORMAT = 1
"""Of entries; one of another format is computed anew."""
DEFAULT_LIMIT_BYTES = 10 * 10**9
ENTRY, STAMP, LIMIT = "entry.json", "used", "limit_bytes"
SPARE_BYTES = 256 * 2**20
"""Free disk space that is left for records."""
WORTH_BYTES_PER_SECOND = 100e6
"""Speed of writing, digesting and reading a result once, low: what takes less to compute is not kept."""


@dataclass(frozen=True)
class Kept:
    """A stage's result, verified: a folder that reduced.read reads, and what its entry says."""

    folder: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One line of the list; an entry that cannot be read has no model and no chain."""

    digest: str
    model: str
    chain: str
    bytes: int
    seconds: float
    """What all its stages took when they were computed."""
    last_used: float
    """Seconds since 1970."""


class StageCache:
    """Entries below `cache_dir`/stages, one folder for each digest. Reading and writing one needs its claim."""

    def __init__(self, cache_dir: Path, limit_bytes: int):
        self.folder = cache_dir / "stages"
        self.limit_bytes = limit_bytes
        self._used: set[str] = set()  # by this job: never evicted by it
        self._is_writable = True

    def open(self) -> str | None:
        """Make the folder, remember the limit, remove what killed processes left; returns why it cannot be used."""
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            if limit_of(self.folder) != self.limit_bytes:
                write_text(self.folder / LIMIT, str(self.limit_bytes))
            with self._lock("probe"):
                self._remove_leftovers()
        except (OSError, SlimsweepError) as error:
            return str(error.__cause__ or error)
        return None

    @contextmanager
    def claim(self, key: StageKey) -> Iterator[None]:
        """Hold an entry while it is read, or computed and written; waits for another process that holds it."""
        lock = self._lock(key.digest)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("%s: another job is at this stage; waiting for it", key.label)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def holds(self, key: StageKey) -> bool:
        """Whether there is an entry, good or not."""
        return (self.folder / key.digest).is_dir()

    def read(self, key: StageKey) -> Kept | None:
        """The verified entry of a key, or None; one that is not what it says is removed."""
        folder = self.folder / key.digest
        if not folder.is_dir():
            return None
        try:
            content = _verified(folder, key)
        except (OSError, ValueError) as error:
            self.refuse(key, str(error))
            return None
        with suppress(OSError):
            (folder / STAMP).touch()
        self._used.add(key.digest)
        return Kept(folder, content)

    def refuse(self, key: StageKey, reason: str) -> None:
        """Remove an entry that must not be used, and say so."""
        log.warning(
            "%s: what the stage cache holds under %s is damaged or not its own (%s); it is removed and computed anew",
            *(key.label, key.digest[:16], reason),
        )
        with suppress(OSError):  # where it must stay, writing the new one will say why
            self._remove(key.digest)

    def keep(self, key: StageKey, model: LanguageModel, state: dict[str, Any], seconds: float) -> str:
        """Write a stage's result, if it is worth it; returns what became of it, for the log.

        Args:
            state: What else the job needs to go on from here, as plain values.
            seconds: What restoring it would save.
        """
        size = sum(tensor.nbytes for tensor in saved_tensors(model.module).values())
        if not self._is_writable:
            return "not kept"
        if seconds < size / WORTH_BYTES_PER_SECOND:
            return "not kept: computing it is quicker than reading it back"
        if size > self.limit_bytes:
            return f"not kept: its {_told(size)} are more than cache_limit_gb={self.limit_bytes / 1e9:g}"
        partial = self.folder / f".{key.digest}.partial"
        try:
            if not self._make_room(size):
                return f"not kept: with what is in use the cache would exceed {_told(self.limit_bytes)}"
            if shutil.disk_usage(self.folder).free < size + SPARE_BYTES:
                raise OSError(f"{_told(size)} to write and {_told(shutil.disk_usage(self.folder).free)} free")
            self._write(partial, key, model, state)
        except _write_errors() as error:
            self._is_writable = False
            log.warning(
                "the stage cache %s cannot be written (%s): this job goes on without it, nothing is lost. Free space, "
                "or set cache_dir=FOLDER, cache_limit_gb=GB or cache=off",
                *(self.folder, error),
            )
            return "not kept"
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._used.add(key.digest)
        return f"kept, {_told(size)}"

    def _write(self, partial: Path, key: StageKey, model: LanguageModel, state: dict[str, Any]) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_with_manifest(model, partial)
        content = {
            "format": FORMAT,
            "key": key.parts,
            "model": key.model,
            "chain": key.label,
            "dtype": str(model.dtype).removeprefix("torch."),
            "original_parameters": model.original_parameters,
            "weights_digest": weights_digest(model),
            "files": {path.name: _file_digest(path) for path in sorted(partial.iterdir())},
            "state": state,
            "threads": torch.get_num_threads(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        content = json.loads(json.dumps(content, default=str))
        (partial / ENTRY).write_text(json.dumps({"digest": _json_digest(content), "content": content}, indent=1))
        (partial / STAMP).touch()
        partial.replace(self.folder / key.digest)

    def entries(self) -> list[Entry]:
        """All entries, the one used last first. Their files are not verified."""
        found = [_listed(folder) for folder in self._folders()]
        return sorted((entry for entry in found if entry), key=lambda entry: -entry.last_used)

    def clear(self) -> tuple[list[Entry], list[Entry]]:
        """Remove every entry that no job holds; returns those removed, and those left."""
        self._remove_leftovers()
        removed, left = [], []
        for entry in self.entries():
            (removed if self._evict(entry.digest) else left).append(entry)
        return removed, left

    def _make_room(self, wanted: int) -> bool:
        """Evict what was unused for longest until `wanted` bytes fit, never what this job used."""
        with self._lock("eviction"):
            entries = self.entries()
            total = sum(entry.bytes for entry in entries)
            for entry in reversed(entries):
                if total + wanted <= self.limit_bytes:
                    break
                if entry.digest not in self._used and self._evict(entry.digest):
                    total -= entry.bytes
            return total + wanted <= self.limit_bytes

    def _evict(self, digest: str) -> bool:
        """Remove an entry unless some process holds it."""
        lock = self._lock(digest)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            self._remove(digest)
        finally:
            lock.release()
        return True

    def _remove(self, digest: str) -> None:
        """Renamed first, so that what an interruption leaves of it is never taken for an entry."""
        gone = self.folder / f".{digest}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        (self.folder / digest).replace(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """What processes that were killed left half written or half removed."""
        for path in [*self.folder.glob(".*.partial"), *self.folder.glob(".*.gone")]:
            lock = self._lock(path.name.split(".")[1])
            try:
                lock.acquire(timeout=0)
            except Timeout:  # a process is at it now
                continue
            shutil.rmtree(path, ignore_errors=True)
            lock.release()

    def _folders(self) -> list[Path]:
        return [path for path in self.folder.glob("[0-9a-f]*") if len(path.name) == 64 and path.is_dir()]

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / "locks" / f"{name}.lock")


def limit_of(folder: Path) -> int:
    """The limit that the last job gave a cache, else the default."""
    try:
        return int((folder / LIMIT).read_text())
    except (OSError, ValueError):
        return DEFAULT_LIMIT_BYTES


def _verified(folder: Path, key: StageKey) -> dict[str, Any]:
    """What an entry says.

    Raises:
        ValueError: any byte of it, or any file, is not what was written, or it was written for something else.
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
    for name, digest in content["files"].items():
        if _file_digest(folder / name) != digest:
            raise ValueError(f"{name} has other bytes than were written")
    return content


def _content(folder: Path) -> dict[str, Any]:
    entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
    if not isinstance(entry, dict) or entry.get("digest") != _json_digest(entry.get("content")):
        raise ValueError(f"{ENTRY} has other bytes than were written")
    return entry["content"]


def _listed(folder: Path) -> Entry | None:
    """One line of the list; None where the entry went away meanwhile."""
    try:
        size = sum(path.stat().st_size for path in folder.iterdir())
        stamp = folder / STAMP
        last_used = (stamp if stamp.is_file() else folder).stat().st_mtime
    except OSError:
        return None
    try:
        content = _content(folder)
    except (OSError, ValueError):
        return Entry(folder.name, "", "", size, 0.0, last_used)
    seconds = sum(stage["seconds"] for stage in content["state"]["stages"])
    return Entry(folder.name, content["model"], content["chain"], size, seconds, last_used)


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json_digest(content: Any) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _write_errors() -> tuple[type[Exception], ...]:
    """What can go wrong with writing a model to a folder: the disk, or a config that transformers refuses to write."""
    from safetensors import SafetensorError

    return OSError, ValueError, SafetensorError, SlimsweepError


def _told(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
