"""Needs triton: run by `pytest -m gpu`. Without a GPU its interpreter takes the place of one."""

import os

import pytest
import torch
from hard_layers import HARD, hard_layer

from slimsweep.numerics.column_solver.block import ColumnBlock
from slimsweep.numerics.column_solver.gpu import agree, solve_by_column, solved
from slimsweep.numerics.hessian import factor_inverse, gram
from slimsweep.numerics.uniform_grid import GRIDS, fit

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported


@pytest.fixture
def device() -> torch.device:
    pytest.importorskip("triton", reason="triton comes with torch for CUDA")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def solve(device):
    from slimsweep.numerics.column_solver import gpu_kernel  # needs triton

    return gpu_kernel.solve


@pytest.mark.parametrize("shape", [(50, 40), (20, 130)])
@pytest.mark.parametrize("pattern", [None, (2, 4), (2, 5), (1, 16)])
@pytest.mark.parametrize("kind", [None, *GRIDS])
def test_the_kernel_solves_as_the_loop_over_columns(shape, pattern, kind, device, solve):
    chance, (rows, width) = torch.Generator().manual_seed(1), shape
    weight, keep = torch.randn(shape, generator=chance), torch.rand(shape, generator=chance) < 0.6
    weight[~keep] *= pattern is None
    upper = (0.1 * torch.randn(width, width, generator=chance)).triu(1)
    upper += torch.diag(torch.rand(width, generator=chance) + 0.5)
    grid = None if kind is None else fit(weight.to(device), kind, 3, 10)
    groups = None if grid is None else grid.group_of(width)
    weight_t, stays = weight.T.contiguous().to(device), keep.T.contiguous().to(device)
    scale = (1 / upper.diagonal()).to(device)
    block = ColumnBlock(weight_t, stays, torch.full_like(weight_t, 7), upper.to(device), scale, pattern, grid, groups)
    found, expected = solved(solve, block), solved(solve_by_column, block)
    same = (found.keep == expected.keep).all(dim=0)
    same &= torch.isclose(found.weight_t, expected.weight_t, atol=1e-4).all(dim=0)
    assert int(same.sum()) >= rows - 1  # a tie that falls otherwise takes its row along
    assert torch.allclose(found.errors[:, same], expected.errors[:, same], atol=1e-4)


@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize("case", HARD)
def test_the_kernel_equals_the_loop_on_hard_layers(case, pattern, device, solve):
    weight, inputs = hard_layer(case)
    factor = factor_inverse(gram(inputs), 1e-6)
    keep = torch.ones_like(weight, dtype=torch.bool) if pattern else weight.abs() > weight.abs().median()
    weight_t, stays = (tensor.T.contiguous().to(device) for tensor in (weight, keep))
    upper, scale = factor.upper.to(device), factor.scale.to(device)
    block = ColumnBlock(weight_t, stays, torch.zeros_like(weight_t), upper, scale, pattern)
    found, expected = solved(solve, block), solved(solve_by_column, block)
    same = (found.keep == expected.keep).all(dim=0)
    for one, other in ((found.weight_t, expected.weight_t), (found.errors, expected.errors)):
        same &= (one - other).norm(dim=0) <= 1e-4 * other.norm(dim=0)
    assert int(same.sum()) >= len(weight) - 1


def test_what_stays_may_be_infinite_and_scores_may_be_no_numbers(device, solve):
    weight_t = torch.tensor([[float("inf")], [1.0], [2.0], [3.0]], device=device)
    stays, scale = torch.ones_like(weight_t, dtype=torch.bool), torch.tensor([0.0, 1, 1, 1], device=device)
    solve(ColumnBlock(weight_t, stays, torch.zeros_like(weight_t), torch.eye(4).to(device), scale, (2, 4)))
    assert stays.flatten().tolist() == [True, False, False, True]
    assert weight_t.flatten().tolist() == [float("inf"), 0.0, 0.0, 3.0]


def test_the_small_layer_that_decides_agrees(device, solve):
    assert agree(solve, solve_by_column, device)


def test_a_group_wider_than_a_launch_is_solved_in_one(device, solve):
    weight_t = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).to(device)
    upper = torch.eye(300, device=device) + 0.01 * torch.ones(300, 300, device=device).triu(1)
    keep = torch.ones_like(weight_t, dtype=torch.bool)
    block = ColumnBlock(weight_t, keep, torch.zeros_like(weight_t), upper, upper.diagonal(), (50, 150))
    found, expected = solved(solve, block), solved(solve_by_column, block)
    assert torch.equal(found.keep, expected.keep) and torch.allclose(found.weight_t, expected.weight_t, atol=1e-4)
