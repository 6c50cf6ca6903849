"""Independent pieces of CPU work, side by side on all cores."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def parallel_map(work: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> list[Any]:
    """`work` of each item, in order; on a CPU as many at once as there are threads, which share torch's threads.

    For work of many small operations. If each operation were divided among threads, these would mostly wait for each
    other, and much longer if another process uses the same cores. An exception of any item is raised after all ended.
    """
    items = list(items)
    threads = torch.get_num_threads()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    if workers <= 1:
        return list(map(work, items))
    try:
        with ThreadPoolExecutor(workers, initializer=_enter, initargs=(threads // workers,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)  # a worker's share became the default of threads to come


def _enter(threads: int) -> None:
    torch.get_num_threads()  # a thread takes the process's default when it first asks, and would forget what was set
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)  # both are settings of a thread, not of the process
