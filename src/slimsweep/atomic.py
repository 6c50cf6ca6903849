"""Files and folders that appear whole or not at all: written beside their place under another name, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to that takes the name `path` at the end; after an error nothing of it is left.

    A reader sees the old file or the new one, never a part.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole; it is on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_folder(folder: Path, replaces: bool = False) -> Iterator[Path]:
    """A folder to write into that takes the name `folder` at the end.

    After an error nothing of it is left, and what a killed process left before is removed.

    Args:
        replaces: an older folder stays until the new one is whole, and goes then; else a full one is an error.

    Raises:
        OSError: it cannot be written, or `folder` was filled meanwhile.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists() and replaces:
            old = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
            partial.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
            return
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
