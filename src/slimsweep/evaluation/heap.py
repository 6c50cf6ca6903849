"""Give freed memory back to the system: a forward that only reuses it would show no rise of resident memory.

glibc has one heap that grows by brk, and arenas for threads. malloc_trim returns free pages of all of them, but for
one piece: the free end of an arena, up to 64 MiB. The main thread gets an arena too, for good, once an allocation has
failed while other threads were there (arena_get_retry of malloc). Freeing a large piece returns that end where it is
longer than M_TRIM_THRESHOLD (mallopt(3)).
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h."""
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Bytes: the value that glibc's own adjustment ends at on 64-bit systems. It trims at twice as many."""
FREED_PIECE = 64 * 2**10
"""Bytes of a piece whose release makes malloc look at the end of its arena."""


def return_free_heap() -> None:
    """Return the free pages of all heaps, and the free end of this thread's arena; does nothing without glibc."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.malloc_trim(ctypes.c_size_t(0))
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_size_t
    libc.malloc.argtypes, libc.free.argtypes = (ctypes.c_size_t,), (ctypes.c_size_t,)
    piece = libc.malloc(FREED_PIECE)
    if piece < libc.sbrk(ctypes.c_ssize_t(0)):  # from the main heap, whose end malloc_trim has returned
        libc.free(piece)
        return
    libc.mallopt(M_TRIM_THRESHOLD, 0)
    libc.free(piece)
    # mallopt ends glibc's own adjustment of both limits, so leave them where that would have ended.
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
