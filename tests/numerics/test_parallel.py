import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from slimsweep.numerics.parallel import parallel_map, workers_of_this_thread

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
    for _ in range(2):  # new workers, then the same again
        shares = parallel_map(lambda _item: torch.get_num_threads(), range(2), CPU)
        assert shares == [max(threads // 2, 1)] * 2


def test_workers_build_no_graph(threads):
    weight = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not any(parallel_map(lambda _item: (weight * 2).requires_grad, range(3), CPU))


def test_a_worker_more_that_cannot_be_started_is_an_error(monkeypatch):
    before, start = torch.get_num_threads(), threading.Thread.start
    started = []

    def only_two(thread):
        started.append(thread)
        if len(started) > 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", only_two)
    with pytest.raises(RuntimeError, match="can't start"):
        workers_of_this_thread(3, 7)
    for thread in started[:2]:
        thread.join(timeout=60)  # they end once nobody holds their pool
        assert not thread.is_alive()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [2, 3])
def test_new_workers_leave_the_number_of_threads_to_come(threads, count):
    workers_of_this_thread(count, 5)
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == threads


def test_an_error_is_raised_and_nothing_left_running(threads):
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda item: 1 / item, [2, 0, 1], CPU)
    assert torch.get_num_threads() == threads


def test_workers_stay_and_belong_to_whoever_asks():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        own = {tuple(parallel_map(lambda _: threading.get_ident(), range(2), CPU)) for _ in range(20)}
        assert len({ident for pair in own for ident in pair}) <= 2
        meeting = threading.Barrier(4)  # of those that two workers employ

        def inner(_item):
            return parallel_map(lambda _: meeting.wait(timeout=60), range(2), CPU)

        first, second = parallel_map(inner, range(2), CPU)
        assert sorted(first + second) == [0, 1, 2, 3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own(threads):
    parallel_map(abs, range(4), CPU)
    child = os.fork()
    if child == 0:
        os._exit(0 if parallel_map(abs, [-1, -2], CPU) == [1, 2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_to_do():
    assert parallel_map(abs, [], CPU) == []
