"""Sentence on an error that ended an answer and that says nothing of the model's weights, such as a lack of memory."""

import torch

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
