"""A folder that appears whole or not at all, and never over another."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from slimsweep.errors import ModelError


def refuse_unless_empty(folder: Path) -> None:
    """Raise ModelError where a model would be written over something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is not an empty folder; name another one to save the model in.")


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes the name `folder` at the end; after an error nothing of it is left.

    Raises:
        ModelError: it cannot be written.
    """
    from safetensors import SafetensorError

    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own class
        raise ModelError(
            f"The model cannot be written to {folder}: {error}. Free space or name another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
