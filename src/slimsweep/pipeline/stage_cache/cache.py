"""Stage cache: results of stages on disk, so that chains with the same first stages compute these once.

A stage is one technique of a chain. Its key is a digest of all that decides its result: the model, the stages up to
this one, their text and seed (pipeline/keys.py). A job restores as many stages as it can, and computes the rest:

    [sparsegpt]         model -> K1 (computed, kept)
    [sparsegpt, nf4]    model -> K1 (restored) -> K2 (computed, kept)

    cache_dir/stages/
        <digest>/               an entry (entry.py): a saved model or statistics
        .<digest>.partial/      an entry while it is written; renamed when it is whole
        .<digest>.gone/         an entry while it is removed
        locks/<digest>.lock     held by the job that reads or computes the entry; others wait

An entry is verified before use. A damaged one is removed and computed again. Above the limit, the entries that were
unused for longest are removed, but never those of the running job. Results that are quick to compute are not kept
(writing.py).
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from slimsweep import atomic
from slimsweep.errors import SlimsweepError, StoreError
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.storage.saved_model import saved_tensors
from slimsweep.pipeline.keys import StageKey
from slimsweep.pipeline.stage_cache import entry as stage_entry
from slimsweep.pipeline.stage_cache.entry import STAMP, Kept, Listed, format_bytes
from slimsweep.pipeline.stage_cache.writing import UNWORTHY, Writing, worth_keeping

log = logging.getLogger(__name__)

DEFAULT_LIMIT_BYTES = 10 * 10**9
LIMIT = "limit_bytes"
SPARE_BYTES = 256 * 2**20
"""Free disk space that is left for records."""


class StageCache:
    """Entries below `cache_dir`/stages, one folder for each digest. Reading or writing one needs its claim."""

    def __init__(self, cache_dir: Path, limit_bytes: int):
        self.folder = cache_dir / "stages"
        self.limit_bytes = limit_bytes
        self._used: set[str] = set()  # by this job: it never evicts them
        self._open: list[Writing] = []  # what this job is writing
        self._is_usable = True

    def open(self) -> str | None:
        """Make the folder, remember the limit, remove leftovers and what exceeds it; returns why it cannot be used."""
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            if limit_of(self.folder) != self.limit_bytes:
                atomic.write_text(self.folder / LIMIT, str(self.limit_bytes))
            with self._lock("leftovers"):
                self._remove_leftovers()
            self._make_room(0)
        except (OSError, SlimsweepError) as error:
            return str(error.__cause__ or error)
        return None

    @contextmanager
    def claim(self, key: StageKey, waits: bool = True) -> Iterator[bool]:
        """Hold an entry while it is read, or computed and written.

        Where another process holds it this waits, or does not and gives False.
        """
        lock = self._lock(key.digest)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if waits:
                    log.info("%s: another job is at this stage; waiting for it", key.label)
                    lock.acquire()
        except OSError as error:
            self.give_up(error)
        try:
            yield lock.is_locked
        finally:
            lock.release()

    def holds(self, key: StageKey) -> bool:
        """Whether there is an entry, good or not; none once the cache could not be written."""
        return self._is_usable and (self.folder / key.digest).is_dir()

    def read(self, key: StageKey) -> Kept | None:
        """The verified entry of a key, or None; one that is not what it says is removed."""
        if not self.holds(key):
            return None
        try:
            kept = stage_entry.read(self.folder / key.digest, key)
        except (OSError, ValueError) as error:
            self.refuse(key, str(error))
            return None
        self.touch(key)
        self._used.add(key.digest)
        return kept

    def touch(self, key: StageKey) -> None:
        """Count an entry, if there is one, as used now."""
        if self.holds(key):
            with suppress(OSError):
                (self.folder / key.digest / STAMP).touch()

    def refuse(self, key: StageKey, reason: str) -> None:
        """Remove an entry that must not be used, and say so."""
        log.warning(
            "%s: what the stage cache holds under %s is damaged or not its own (%s); it is removed and computed anew",
            *(key.label, key.digest[:16], " ".join(reason.split())),
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
        if self._is_usable and not worth_keeping(size, seconds):
            return UNWORTHY
        with self.writing(key, size) as entry:
            if entry.folder:
                with entry.step():
                    stage_entry.write(entry.folder, key, model, state)
        return entry.outcome

    @contextmanager
    def writing(self, key: StageKey, size: int) -> Iterator[Writing]:
        """An entry of at most `size` bytes that its user fills by steps; it appears at the end, whole or not at all."""
        entry = Writing(self.give_up)
        with entry.step():
            entry.folder = self._partial(key, size, entry)
        self._open.append(entry)
        try:
            yield entry
            if entry.folder:
                with entry.step():
                    entry.folder.replace(self.folder / key.digest)
                    self._used.add(key.digest)
                    self._make_room(0)  # for what other processes wrote meanwhile
                    entry.outcome = f"kept, {format_bytes(size)}"
        finally:
            entry.drop(entry.outcome)
            self._open.remove(entry)

    def _partial(self, key: StageKey, size: int, entry: Writing) -> Path | None:
        """An empty folder to write into, once there is room; else None, and the entry says why."""
        if not self._is_usable:
            return None
        if size > self.limit_bytes:
            entry.outcome = (
                f"not kept: its {format_bytes(size)} are more than cache_limit_gb={self.limit_bytes / 1e9:g}"
            )
            return None
        taken = size + sum(other.reserved for other in self._open)
        if not self._make_room(taken):
            entry.outcome = f"not kept: with what is in use the cache would exceed {format_bytes(self.limit_bytes)}"
            return None
        if (free := shutil.disk_usage(self.folder).free) < taken + SPARE_BYTES:
            needed, there, spare = map(format_bytes, (taken, free, SPARE_BYTES))
            raise OSError(f"{needed} to write and {there} free, of which {spare} stay")
        partial = self.folder / f".{key.digest}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        entry.reserved = size
        return partial

    def give_up(self, error: Exception) -> None:
        """Use the cache no more, and say so once."""
        if self._is_usable:
            log.warning(
                "the stage cache %s cannot be written (%s): this job goes on without it, nothing is lost. Free space, "
                "or set cache_dir=FOLDER, cache_limit_gb=GB or cache=off",
                *(self.folder, " ".join(str(error).split())),
            )
        self._is_usable = False

    def entries(self) -> list[Listed]:
        """All entries, the one used last first. Their files are not verified."""
        folders = [path for path in self.folder.glob("[0-9a-f]*") if len(path.name) == 64 and path.is_dir()]
        found = [stage_entry.listed(folder) for folder in folders]
        return sorted((entry for entry in found if entry), key=lambda entry: -entry.last_used)

    def clear(self) -> tuple[list[Listed], list[Listed]]:
        """Remove every entry that no job holds; returns those removed, and those left.

        Raises:
            StoreError: the folder cannot be written.
        """
        removed: list[Listed] = []
        left: list[Listed] = []
        try:
            self._remove_leftovers()
            for entry in self.entries():
                (removed if self._evict(entry.digest) else left).append(entry)
        except OSError as error:
            raise StoreError(f"the stage cache {self.folder} cannot be cleared: {error}") from error
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
                    log.info("stage cache: %s of %s made room", entry.chain or entry.digest[:16], entry.model)
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
        with suppress(FileNotFoundError):  # another process was faster
            (self.folder / digest).replace(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove folders that killed processes left half written or half removed."""
        for path in [*self.folder.glob(".*.partial"), *self.folder.glob(".*.gone")]:
            lock = self._lock(path.name.split(".")[1])
            try:
                lock.acquire(timeout=0)
            except Timeout:  # a process is at it now
                continue
            shutil.rmtree(path, ignore_errors=True)
            lock.release()

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / "locks" / f"{name}.lock")


def limit_of(folder: Path) -> int:
    """The limit that the last job gave the cache in a folder, else the default."""
    try:
        return int((folder / LIMIT).read_text())
    except (OSError, ValueError):
        return DEFAULT_LIMIT_BYTES
