import threading

import pytest
import torch

from slimsweep.cores import side_by_side

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_threads_are_as_before(threads):
    assert side_by_side(lambda item: item * item, range(7), CPU) == [0, 1, 4, 9, 16, 25, 36]
    assert torch.get_num_threads() == threads
    shares = []
    later = threading.Thread(target=lambda: shares.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert shares == [threads]


def test_workers_share_the_threads(threads):
    shares = side_by_side(lambda _item: torch.get_num_threads(), range(2), CPU)
    assert shares == [max(threads // 2, 1)] * 2


def test_workers_build_no_graph(threads):
    weight = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        assert not any(side_by_side(lambda _item: (weight * 2).requires_grad, range(3), CPU))


def test_an_error_is_raised_and_nothing_left_running(threads):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda item: 1 / item, [2, 0, 1], CPU)
    assert torch.get_num_threads() == threads


def test_nothing_to_do():
    assert side_by_side(abs, [], CPU) == []
