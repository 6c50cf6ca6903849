import subprocess
import sys
from types import SimpleNamespace

import pytest

from slimsweep.evaluation import heap

AFTER_A_FAILURE = """
import threading, torch
from slimsweep.evaluation.memory import peak, reset_peak

MIB, cpu = 2**20, torch.device("cpu")
torch.ones(31 * MIB, dtype=torch.uint8)  # freed, it raises the size from which pieces leave the heap
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    torch.empty(2**55, dtype=torch.uint8)
except RuntimeError:
    pass  # the main thread has an arena of its own from now on
else:
    raise AssertionError("2**55 bytes were allocated")


def forward():
    torch.ones(8 * MIB, dtype=torch.uint8).float().sum()


for _ in range(3):
    forward()
    before = reset_peak(cpu)
    forward()
    print((peak(cpu) - before) / MIB)
"""


# Without a limit of the stack, Linux puts the main heap above the arenas.
@pytest.mark.parametrize("limit", ["", "ulimit -s unlimited; "], ids=["usual", "other layout"])
def test_the_arena_that_a_failed_allocation_leads_to_hides_no_rise(limit):
    command = f'{limit}exec "$0" -c "$1"'
    ran = subprocess.run(["sh", "-c", command, sys.executable, AFTER_A_FAILURE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rises = [float(line) for line in ran.stdout.split()]
    assert len(rises) == 3 and all(39 < rise < 41 for rise in rises)


def test_systems_without_glibc_are_left_alone(monkeypatch):
    opened = []
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: opened.append(name) or SimpleNamespace())
    heap.return_free_heap()
    assert opened == [None]  # and nothing was called
    monkeypatch.setattr(sys, "platform", "darwin")
    heap.return_free_heap()
    assert opened == [None]
