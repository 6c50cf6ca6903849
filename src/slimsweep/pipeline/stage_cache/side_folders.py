"""Folders of a cache beside its stages: checkpoints of training, predictions of teachers and of bases.

The limit of the stage cache does not count them, and only `slim cache --clear` removes them.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

UNFINISHED, TEACHERS, BASES = "unfinished", "teachers", "bases"
KINDS = {
    UNFINISHED: "checkpoints of unfinished training",
    TEACHERS: "predictions of teachers",
    BASES: "predictions of bases",
}
"""Names of the folders that hold them, and what they hold in words."""
IN_USE_SECONDS = 3600
"""Predictions that were written more lately than this may be read by a job, and stay."""


@dataclass(frozen=True)
class Folder:
    """One folder of any kind."""

    path: Path
    bytes: int
    last_written: float
    """Unix time."""

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.path.parent.name


def checkpoint_folder(cache_dir: Path, digest: str) -> Path:
    """Folder of the checkpoints of an unfinished stage, by the digest of its key."""
    return cache_dir / UNFINISHED / digest[:16]


def teacher_folder(cache_dir: Path, identity: str) -> Path:
    """Folder of what a teacher predicts, by its identity."""
    return cache_dir / TEACHERS / identity[:16]


def base_folder(cache_dir: Path, key: str) -> Path:
    """Folder of what the base of an experiment predicts, by the base's key."""
    return cache_dir / BASES / key[:16]


@contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Keep other jobs from a folder of checkpoints, which is removed when the stage ends well."""
    if folder is None:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another job trains this stage; waiting for it")
        lock.acquire()
    try:
        yield
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def folders(cache_dir: Path) -> list[Folder]:
    """All folders of all kinds."""
    found = []
    for path in sorted(path for kind in KINDS for path in cache_dir.glob(f"{kind}/*/")):
        stats = [file.stat() for file in [path, *path.rglob("*")] if file.exists()]
        size = sum(one.st_size for one in stats)
        found.append(Folder(path, size, max((one.st_mtime for one in stats), default=0.0)))
    return found


def clear(cache_dir: Path) -> tuple[list[Folder], list[Folder]]:
    """Remove the folders that no job uses; returns those removed, and those left."""
    removed: list[Folder] = []
    left: list[Folder] = []
    for folder in folders(cache_dir):
        (removed if _remove(folder) else left).append(folder)
    return removed, left


def _remove(folder: Folder) -> bool:
    if folder.kind != UNFINISHED:
        if time.time() - folder.last_written < IN_USE_SECONDS:
            return False
        shutil.rmtree(folder.path, ignore_errors=True)
        return True
    lock = _lock(folder.path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    shutil.rmtree(folder.path, ignore_errors=True)
    lock.release()
    return True


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"))
