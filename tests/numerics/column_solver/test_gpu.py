import sys
from types import SimpleNamespace

import pytest
import torch

import slimsweep
from slimsweep.numerics.column_solver import solve_columns
from slimsweep.numerics.column_solver.gpu import agree, gpu_solve, solve_by_column

CPU = torch.device("cpu")


@pytest.fixture
def kernel_is(monkeypatch):
    """Puts another kernel in the place of Triton's."""

    def put(solve):
        module = SimpleNamespace(solve=solve)
        monkeypatch.setitem(sys.modules, "slimsweep.numerics.column_solver.gpu_kernel", module)
        monkeypatch.setattr(slimsweep, "column_kernel", module, raising=False)
        gpu_solve.cache_clear()

    yield put
    gpu_solve.cache_clear()


def rounds_badly(block):
    solve_by_column(block)
    if block.grid is not None:
        block.weight_t.add_(0.1)


def broken(_block):
    raise RuntimeError("no\ncompiler")


@pytest.mark.parametrize(
    ("solve", "reason"),
    [(broken, "RuntimeError: no compiler"), (lambda _: None, "other numbers"), (rounds_badly, "other numbers")],
)
def test_a_kernel_that_is_broken_or_wrong_gives_way_to_the_loop(solve, reason, kernel_is, caplog):
    kernel_is(solve)
    assert gpu_solve(CPU) is solve_by_column
    assert reason in caplog.text


def test_a_full_card_says_nothing_of_the_kernel(kernel_is):
    asked = []

    def full_at_first(block):
        asked.append(block)
        if len(asked) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        solve_columns(block)

    kernel_is(full_at_first)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        gpu_solve(CPU)
    assert gpu_solve(CPU) is full_at_first


def test_a_kernel_that_agrees_is_used(kernel_is, caplog):
    kernel_is(solve_columns)
    assert gpu_solve(CPU) is solve_columns and not caplog.text


def test_the_small_layer_tells_masks_that_differ():
    def keeps_one_more(block):
        solve_by_column(block)
        if block.pattern:
            block.keep[0, 0] = ~block.keep[0, 0]

    assert agree(solve_columns, solve_by_column, CPU) and not agree(keeps_one_more, solve_by_column, CPU)
