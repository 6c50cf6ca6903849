import pytest
import torch

from slimsweep.numerics import straight_through, uniform_grid
from slimsweep.numerics.uniform_grid import GRIDS, Grid


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def grad_of(weight: torch.Tensor, grid: Grid, gradient: torch.Tensor) -> torch.Tensor:
    weight = weight.clone().requires_grad_(True)
    with torch.enable_grad():
        straight_through.round_to(weight, grid).backward(gradient)
    return weight.grad


def test_a_row_by_hand():
    # Levels -2, -1, 0 and 1. -2.4 and 1.4 are rounded to the ends; -2.6 and 1.6 lie nearer to levels that are missing.
    grid = Grid("symmetric", 2, torch.ones(1, 1), torch.zeros(1, 1))
    weight = torch.tensor([[-2.6, -2.4, -0.3, 0.7, 1.4, 1.6]])
    assert straight_through.round_to(weight, grid).tolist() == [[-2.0, -2.0, 0.0, 1.0, 1.0, 1.0]]
    gradient = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    assert grad_of(weight, grid, gradient).tolist() == [[0.0, 2.0, 3.0, 4.0, 5.0, 0.0]]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_values_and_gradients_are_those_of_torch(bits):
    weight, gradient = normal(5, 32), normal(5, 32).flip(0)
    scale, zero = torch.full((5, 1), 2.0 / 2**bits), torch.arange(-1.0, 1.5, 0.5).round()[:, None]
    grid = Grid("asymmetric", bits, scale, zero)
    reference = weight.clone().requires_grad_(True)
    with torch.enable_grad():
        rounded = torch.fake_quantize_per_channel_affine(
            reference, scale[:, 0], zero[:, 0].int(), 0, grid.lowest, grid.highest
        )
        rounded.backward(gradient)
    assert torch.equal(straight_through.round_to(weight, grid), rounded)
    assert torch.equal(grad_of(weight, grid, gradient), reference.grad)
    assert bool((reference.grad == 0).any()) and bool((reference.grad != 0).any())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_fitted_to_the_weight_clips_at_most_the_ends(bits, grid):
    weight = normal(8, 64)
    levels = uniform_grid.fit(weight, grid, bits, 16)
    clipped, groups = levels.clipped(weight), weight.unflatten(1, (4, 16))
    # Of a symmetric grid the highest level is half a step short, so that a few may lie beyond; else scales are rounded.
    ends = (groups == groups.amax(2, keepdim=True)) | (groups == groups.amin(2, keepdim=True))
    assert bits == 8 or bool((~clipped | ends.flatten(1)).all())
    assert float(clipped.float().mean()) < 0.1
    gradient = normal(8, 64).flip(0)
    assert torch.equal(grad_of(weight, levels, gradient), gradient.masked_fill(clipped, 0))


def test_straight_through_has_one_value_and_the_other_slope():
    smooth = torch.tensor([0.1, 0.3], requires_grad=True)
    found = straight_through.straight_through(smooth * 3, torch.tensor([1.0, 7.0]))
    found.sum().backward()
    assert found.tolist() == [1.0, 7.0]
    assert smooth.grad.tolist() == [3.0, 3.0]
