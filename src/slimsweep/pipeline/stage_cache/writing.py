"""Writing of an entry of the stage cache, and the decision whether a result is worth keeping."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from slimsweep.errors import SlimsweepError

WORTH_BYTES_PER_SECOND = 100e6
"""Low estimate of the speed of writing, hashing and reading a result. A result that computes faster is not kept."""
UNWORTHY = "not kept: computing it is quicker than reading it back"
WRITE_ERRORS = (OSError, ValueError, SafetensorError, StrictDataclassError, SlimsweepError)
"""Errors of writing a model to a folder: of the disk, or of a config that transformers refuses to write."""


class Writing:
    """An entry while it is written. `folder` is None where nothing is kept, or no longer."""

    def __init__(self, give_up: Callable[[Exception], None]):
        """`give_up`: told of an error that ends the use of the cache."""
        self.folder: Path | None = None
        self.reserved = 0
        """Bytes that are kept free for it."""
        self.outcome = "not kept"
        """Outcome of the writing, for the log."""
        self._give_up = give_up

    @contextmanager
    def step(self) -> Iterator[None]:
        """Write something; where that fails nothing is kept, the cache is used no more, and the job goes on."""
        try:
            yield
        except WRITE_ERRORS as error:
            self._give_up(error)
            self.drop("not kept")

    def drop(self, outcome: str) -> None:
        """Keep nothing, and no room for it."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder, self.reserved, self.outcome = None, 0, outcome


def worth_keeping(size: int, seconds: float) -> bool:
    """True if a result takes less time to write and read than it took to compute."""
    return seconds >= size / WORTH_BYTES_PER_SECOND
