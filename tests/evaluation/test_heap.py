import sys

from slimsweep.evaluation import heap

AFTER_A_FAILURE = """
import threading, torch
from slimsweep.evaluation.memory import peak, reset_peak

MIB, cpu = 2**20, torch.device("cpu")
torch.ones(31 * MIB, dtype=torch.uint8)  # freed, it raises the size from which pieces leave the heap
others = threading.Event()
threading.Thread(target=others.wait).start()
try:
    torch.empty(2**46, dtype=torch.uint8)
except RuntimeError:  # the main thread has an arena of its own from now on
    pass


def forward():
    torch.ones(8 * MIB, dtype=torch.uint8).float().sum()


for _ in range(3):
    forward()
    before = reset_peak(cpu)
    forward()
    print((peak(cpu) - before) / MIB)
others.set()
"""


def test_the_arena_that_a_failed_allocation_leads_to_hides_no_rise(new_processes):
    rises = [float(line) for line in new_processes.run(AFTER_A_FAILURE).split()]
    assert len(rises) == 3 and all(39 < rise < 41 for rise in rises)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(heap.ctypes, "CDLL", None)
    heap.return_free_heap()
