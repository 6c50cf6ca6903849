import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from slimsweep.numerics.parallel import parallel_map

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_threads_are_as_before(threads):
    assert parallel_map(lambda item: item * item, range(7), CPU) == [0, 1, 4, 9, 16, 25, 36]
    assert torch.get_num_threads() == threads
    shares = []
    later = threading.Thread(target=lambda: shares.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert shares == [threads]


def test_workers_share_the_threads(threads):
    for _ in range(2):
        shares = parallel_map(lambda _item: torch.get_num_threads(), range(2), CPU)
        assert shares == [max(threads // 2, 1)] * 2


def test_workers_build_no_graph(threads):
    weight = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not any(parallel_map(lambda _item: (weight * 2).requires_grad, range(3), CPU))


def test_a_worker_that_cannot_be_started_is_an_error(monkeypatch):
    before, start = torch.get_num_threads(), threading.Thread.start
    started, refused = [], threading.Event()  # none is idle when the third item comes

    def only_two(thread):
        if len(started) == 2:
            refused.set()
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    torch.set_num_threads(3)
    try:
        monkeypatch.setattr(threading.Thread, "start", only_two)
        with pytest.raises(RuntimeError, match="can't start"):
            parallel_map(lambda _item: refused.wait(timeout=60), range(3), CPU)
        assert torch.get_num_threads() == 3
        assert not any(thread.is_alive() for thread in started)
    finally:
        torch.set_num_threads(before)


def test_threads_to_come_have_as_many_as_before(threads):
    parallel_map(abs, range(3), CPU)
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == threads


def test_an_error_is_raised_and_nothing_left_running(threads):
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda item: 1 / item, [2, 0, 1], CPU)
    assert torch.get_num_threads() == threads


def test_workers_may_employ_workers():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        meeting = threading.Barrier(4)  # of those that two workers employ

        def inner(_item):
            return parallel_map(lambda _: meeting.wait(timeout=60), range(2), CPU)

        first, second = parallel_map(inner, range(2), CPU)
        assert sorted(first + second) == [0, 1, 2, 3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_workers_too(threads):
    parallel_map(abs, range(4), CPU)
    child = os.fork()
    if child == 0:
        os._exit(0 if parallel_map(abs, [-1, -2], CPU) == [1, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_to_do():
    assert parallel_map(abs, [], CPU) == []
