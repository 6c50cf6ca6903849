"""Sentences on errors that say nothing of a model's weights, such as a lack of memory in an answer or while loading."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slimsweep.errors import DemoError

ADVICE = "Try a shorter prompt, fewer tokens (--tokens), or the model of another key"
ALLOCATORS = ("out of memory", "allocate memory", "not enough memory")
"""Words of RuntimeErrors that torch's allocators raise; the one for CPUs has no class of its own."""


def sentence(error: Exception) -> str:
    """The class and the message of an error in one line; of a lack of memory, what to try."""
    return f"out of memory ({_said(error)}). {ADVICE}" if is_lack_of_memory(error) else _said(error)


def is_lack_of_memory(error: BaseException | None) -> bool:
    """Whether memory of the machine or of a GPU was used up, in an error or in what caused it."""
    if error is None:
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    is_allocator = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in ALLOCATORS)
    return is_allocator or is_lack_of_memory(error.__cause__)


@contextmanager
def loading(title: str) -> Iterator[None]:
    """Name the model in the error where memory ends while it is loaded, or compressed again.

    Raises:
        DemoError: memory of the machine or of a GPU was used up.
    """
    try:
        yield
    except Exception as error:
        if not is_lack_of_memory(error):
            raise
        raise DemoError(
            f"out of memory while {title} was loaded ({_said(error)}). Close other programs that use this memory, or "
            "choose fewer or smaller models"
        ) from error


def _said(error: Exception) -> str:
    """The class and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ").rstrip(".")
