"""Return freed memory to the system. Otherwise a forward reuses it, and resident memory does not rise.

glibc takes memory from one heap that grows by brk, and from arenas of threads. Each is a row of chunks:

    | used | free | used | free top |

malloc_trim returns all free pages but the top of an arena, which may hold 64 MiB. The main thread uses an arena until
it ends, once an allocation has failed while there were other threads (arena_get_retry of malloc). Freeing a large chunk
returns the top of its arena if the top is longer than M_TRIM_THRESHOLD (mallopt(3)). Tops of other threads' arenas
stay.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h: the free top that is returned, and the size of a chunk that leaves the heap."""
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Bytes: the most that glibc's dynamic mmap threshold reaches on 64-bit systems. Its trim threshold is twice this."""
FREED_CHUNK = 64 * 2**10
"""Bytes of a chunk whose release makes free() trim the arena (FASTBIN_CONSOLIDATION_THRESHOLD)."""
NON_MAIN_ARENA = 4
"""Flag in the size field of a chunk's header: the chunk is of an arena, not of the main heap."""


def return_free_heap() -> None:
    """Return the free pages of all heaps, and the free top of this thread's arena; does nothing without glibc.

    If the thread uses an arena, this fixes glibc's trim and mmap thresholds, which are dynamic by default.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.malloc_trim(ctypes.c_size_t(0))
    libc.malloc.restype = ctypes.c_size_t
    libc.malloc.argtypes, libc.free.argtypes = (ctypes.c_size_t,), (ctypes.c_size_t,)
    chunk = libc.malloc(FREED_CHUNK)
    if not chunk or not _size_field(chunk) & NON_MAIN_ARENA:  # the top of the main heap was returned above
        libc.free(chunk)
        return
    libc.mallopt(M_TRIM_THRESHOLD, 0)
    libc.free(chunk)
    # mallopt ends the dynamic adjustment of both thresholds, so set them to its maximum.
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)


def _size_field(chunk: int) -> int:
    """The size field of a chunk's header, which holds three flags too."""
    return ctypes.c_size_t.from_address(chunk - ctypes.sizeof(ctypes.c_size_t)).value
