"""Tensors that rest in a file: mapped into memory page by page, and given back after each visit."""

import mmap
import os
import tempfile
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from slimsweep.errors import ModelError

PAGE = mmap.PAGESIZE


class Scratch:
    """A file without a name that holds tensors; writing to one changes the file.

    The tensors are ordinary ones in host memory to all that reads and writes them. What was touched stays resident
    until `release`, which loses nothing: the system writes it back and reads it again when it is next needed.
    """

    def __init__(self, folder: Path, size: int):
        """Reserve `size` bytes in `folder`.

        Raises:
            ModelError: the folder has no room for them.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Without a name from the start, so that even a killed process leaves nothing behind.
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, max(size, PAGE))
                self._map = mmap.mmap(file.fileno(), max(size, PAGE))
        except OSError as error:
            raise ModelError(
                f"memory_budget keeps {size / 1e9:.1f} GB in {folder}, which has no room for them ({error}): free "
                "space or set cache_dir=FOLDER"
            ) from error
        self._end = 0
        self.folder = folder

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of what comes next in the file, zero at first."""
        start = self._end
        self._end += padded_bytes(shape, dtype)
        if self._end > len(self._map):
            raise ValueError(f"{self._end} bytes in a scratch file of {len(self._map)}")
        if not prod(shape):
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=prod(shape), offset=start).view(shape)

    def release(self) -> None:
        """Give back the memory of all that was touched."""
        self._map.madvise(mmap.MADV_DONTNEED)


def padded_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes a tensor takes in the file; each begins on a page of its own."""
    return -(-prod(shape) * dtype.itemsize // PAGE) * PAGE
