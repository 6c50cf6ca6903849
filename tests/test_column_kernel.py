"""Needs triton: run by `pytest -m gpu`. Without a GPU its interpreter takes the place of one."""

import os

import pytest
import torch

from slimsweep import gpu_columns
from slimsweep.grid import GRIDS, fit

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported


@pytest.fixture
def device() -> torch.device:
    pytest.importorskip("triton", reason="triton comes with torch for CUDA")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("shape", [(50, 40), (20, 130)])
@pytest.mark.parametrize("pattern", [None, (2, 4), (2, 5), (1, 16)])
@pytest.mark.parametrize("kind", [None, *GRIDS])
def test_the_kernel_solves_as_the_loop_over_columns(shape, pattern, kind, device):
    chance, (rows, width) = torch.Generator().manual_seed(1), shape
    weight, keep = torch.randn(shape, generator=chance), torch.rand(shape, generator=chance) < 0.6
    weight[~keep] *= pattern is None
    upper = (0.1 * torch.randn(width, width, generator=chance)).triu(1)
    upper += torch.diag(torch.rand(width, generator=chance) + 0.5)
    grid = None if kind is None else fit(weight.to(device), kind, 3, 10)
    groups = None if grid is None else grid.group_of(width)
    results = []
    for solve in (gpu_columns.solve_in_kernel, gpu_columns.solve_by_column):
        turned, stays = weight.T.contiguous().to(device), keep.T.contiguous().to(device)
        errors = torch.full_like(turned, 7)
        solve(turned, stays, errors, upper.to(device), (1 / upper.diagonal()).to(device), pattern, grid, groups)
        results.append((turned, stays, errors))
    (turned, stays, errors), (its_turned, its_stays, its_errors) = results
    same = (stays == its_stays).all(dim=0) & torch.isclose(turned, its_turned, atol=1e-4).all(dim=0)
    assert int(same.sum()) >= rows - 1  # a tie that falls otherwise takes its row along
    assert torch.allclose(errors[:, same], its_errors[:, same], atol=1e-4)


def test_what_stays_may_be_infinite_and_scores_may_be_no_numbers(device):
    turned, stays = (
        torch.tensor([[float("inf")], [1.0], [2.0], [3.0]], device=device),
        torch.ones(4, 1).bool().to(device),
    )
    scale = torch.tensor([0.0, 1, 1, 1], device=device)
    gpu_columns.solve_in_kernel(turned, stays, torch.zeros_like(turned), torch.eye(4, device=device), scale, (2, 4))
    assert stays.flatten().tolist() == [True, False, False, True]
    assert turned.flatten().tolist() == [float("inf"), 0.0, 0.0, 3.0]


def test_the_small_layer_that_decides_agrees(device):
    assert gpu_columns.agree(gpu_columns.solve_in_kernel, gpu_columns.solve_by_column, device)
