"""Give freed memory back to the system: a forward that only reuses it would show no rise of resident memory.

glibc has one heap that grows by brk, and arenas for threads. malloc_trim returns free pages of all of them, but for
one piece: the free end of an arena, up to 64 MiB. The main thread gets an arena too, for good, once an allocation has
failed while other threads were there (arena_get_retry of malloc). Freeing a large piece returns the end of its arena
where that is longer than M_TRIM_THRESHOLD (mallopt(3)). The ends of other threads' arenas stay.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h."""
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Bytes: the value that glibc's own adjustment ends at on 64-bit systems. It trims at twice as many."""
FREED_PIECE = 64 * 2**10
"""Bytes of a piece whose release makes malloc look at the end of its arena."""
NON_MAIN_ARENA = 4
"""Bit in the word of sizes before a piece of memory: it comes from an arena, not from the main heap."""


def return_free_heap() -> None:
    """Return the free pages of all heaps, and the free end of this thread's arena; does nothing without glibc.

    Where the thread has an arena, glibc's limits for trimming and for pieces of their own are fixed from then on.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.malloc_trim(ctypes.c_size_t(0))
    libc.malloc.restype = ctypes.c_size_t
    libc.malloc.argtypes, libc.free.argtypes = (ctypes.c_size_t,), (ctypes.c_size_t,)
    piece = libc.malloc(FREED_PIECE)
    if not piece or not _size_word(piece) & NON_MAIN_ARENA:  # the end of the main heap was returned above
        libc.free(piece)
        return
    libc.mallopt(M_TRIM_THRESHOLD, 0)
    libc.free(piece)
    # mallopt ends glibc's own adjustment of both limits, so leave them where that would have ended.
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)


def _size_word(piece: int) -> int:
    """The word before a piece, in which glibc keeps its size and three flags."""
    return ctypes.c_size_t.from_address(piece - ctypes.sizeof(ctypes.c_size_t)).value
