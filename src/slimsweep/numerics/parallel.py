"""Independent pieces of CPU work, side by side on all cores."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch


def parallel_map(work: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> list[Any]:
    """`work` of each item, in order; on a CPU as many at once as there are threads, which share torch's threads.

    For work of many small operations: split over threads one by one, these would mostly wait for each other, and far
    longer still where another process wants the same cores. An exception of any item is raised after all ended.
    """
    items = list(items)
    threads = torch.get_num_threads()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    if workers <= 1:
        return [work(item) for item in items]
    futures = []
    try:
        pool = workers_of_this_thread(workers, threads // workers)
        futures += [pool.submit(work, item) for item in items]
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def workers_of_this_thread(count: int, share: int) -> ThreadPoolExecutor:
    """Threads that stay: one that is new touches memory that nobody touched before, which took longer than the work.

    They are the calling thread's own, so that it never waits for what another thread gave them.

    Args:
        share: torch's threads for each of them.
    """
    pools = _own.__dict__
    if (count, share) not in pools:
        pools[count, share] = _new_pool(count, share)
    return pools[count, share]


def _new_pool(count: int, share: int) -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    pool, all_here = ThreadPoolExecutor(count, initializer=_enter, initargs=(share,)), threading.Barrier(count)
    try:
        list(pool.map(lambda _: all_here.wait(), range(count)))
    except RuntimeError:  # no thread can be started: those that were must not wait for it
        all_here.abort()
        pool.shutdown(wait=False)
        raise
    finally:
        torch.set_num_threads(threads)  # a new worker's share became the default of threads to come
    return pool


def _enter(threads: int) -> None:
    torch.get_num_threads()  # a thread takes the process's default when it first asks, and would forget what was set
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)  # both are settings of a thread, not of the process


def _forget() -> None:
    global _own
    _own = threading.local()


_own = threading.local()
os.register_at_fork(after_in_child=_forget)  # a child has none of these threads
