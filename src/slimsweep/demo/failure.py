"""Sentence on an error that ended an answer and that says nothing of the model's weights, such as a lack of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slimsweep.errors import DemoError

ADVICE = "Try a shorter prompt, fewer tokens (--tokens), or the model of another key"
ALLOCATORS = ("out of memory", "allocate memory", "not enough memory")
"""Words of RuntimeErrors that torch's allocators raise; the one for CPUs has no class of its own."""


def sentence(error: Exception) -> str:
    """The class and the message of an error in one line; of a lack of memory, what to try."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ").rstrip(".")
    return f"out of memory ({said}). {ADVICE}" if is_lack_of_memory(error) else said


def is_lack_of_memory(error: Exception) -> bool:
    """Whether memory of the machine or of a GPU was used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in ALLOCATORS)


@contextmanager
def loading(title: str) -> Iterator[None]:
    """Name the model in the error where memory ends while it is loaded.

    Raises:
        DemoError: memory of the machine or of a GPU was used up.
    """
    try:
        yield
    except Exception as error:
        if not is_lack_of_memory(error):
            raise
        raise DemoError(
            f"out of memory while {title} was loaded ({' '.join(str(error).split()).rstrip('.')}). "
            "End other programs that use this memory, show fewer models at once, or choose the key of a smaller model"
        ) from error
