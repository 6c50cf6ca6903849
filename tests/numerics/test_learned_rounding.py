import pytest
import torch

from slimsweep.numerics.learned_rounding import Learned, LearnedRounding
from slimsweep.numerics.uniform_grid import GRIDS, fit


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(rounding: LearnedRounding, seed: int = 1) -> Learned:
    """Any values within the bounds."""
    start, generator = rounding.start(), torch.Generator().manual_seed(seed)
    return Learned(
        torch.rand(start.offset.shape, generator=generator) - 0.5,
        *(torch.rand(start.low_clip.shape, generator=generator) for _ in range(2)),
    )


def test_a_row_by_hand():
    # Levels -1, 0, 1, 2. An offset of 0.2 lifts 0.4 over the half, one of -0.3 keeps 0.6 below it.
    rounding = LearnedRounding(torch.tensor([[-1.0, 0.4, 2.0, 0.6]]), "asymmetric", 2, None)
    ones = torch.ones(1, 1)
    learned = Learned(torch.tensor([[0.0, 0.2, 0.0, -0.3]]), ones, ones)
    assert rounding.fake_quantize(learned).tolist() == [[-1.0, 1.0, 2.0, 0.0]]
    # Half of the maximum: a range from -1 to 1 has steps of 2/3, in bf16 171/256, and round(1.497) = 1 level below 0.
    clipped = rounding.fake_quantize(Learned(torch.zeros(1, 4), ones, ones / 2))
    step = 171 / 256
    assert clipped.tolist() == [[-step, step, 2 * step, step]]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [None, 4])
def test_the_start_is_the_nearest_level_bit_for_bit(grid, bits, group_size):
    weight = random(6, 12)
    weight[0] = 0.25  # a group of one value
    weight[1] = 0
    rounding = LearnedRounding(weight, grid, bits, group_size)
    nearest, (levels, codes) = fit(weight, grid, bits, group_size), rounding.quantize(rounding.start())
    assert torch.equal(codes, nearest.quantize(weight))
    assert torch.equal(levels.scale, nearest.scale)
    assert torch.equal(levels.zero, nearest.zero)
    assert torch.equal(rounding.fake_quantize(rounding.start()), nearest.fake_quantize(weight))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 4])
def test_what_is_trained_is_what_the_codes_stand_for(grid, bits):
    weight = random(6, 12)
    rounding = LearnedRounding(weight, grid, bits, 4, zeros=random(6, 12, seed=2) > 0.5)
    learned = drawn(rounding)
    levels, codes = rounding.quantize(learned)
    assert torch.equal(rounding.fake_quantize(learned), levels.dequantize(codes))
    assert codes.min() >= levels.lowest
    assert codes.max() <= levels.highest


@pytest.mark.parametrize("grid", GRIDS)
def test_zeros_stay_exact_whatever_their_offset(grid):
    zeros = random(6, 12, seed=2) > 0
    rounding = LearnedRounding(random(6, 12).masked_fill(zeros, 0), grid, 2, 4, zeros)
    for seed in range(5):
        assert bool((rounding.fake_quantize(drawn(rounding, seed))[zeros] == 0).all())


def smooth(weight: torch.Tensor, grid: str, offset, low_clip, high_clip) -> torch.Tensor:
    """The formula of 4 bits in groups of 4 without any rounding."""
    groups, part = weight.unflatten(1, (-1, 4)), offset.unflatten(1, (-1, 4))
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    if grid == "minimum":
        centre = (low + high) / 2
        low, high = centre + (low - centre) * low_clip, centre + (high - centre) * high_clip
        scale = (high - low) / 15
        code = ((groups - low[:, :, None]) / scale[:, :, None] + part).clamp(0, 15)
        return (code * scale[:, :, None] + low[:, :, None]).flatten(1)
    low, high = (low * low_clip).clamp(max=0), (high * high_clip).clamp(min=0)
    scale = 2 * torch.maximum(low.abs(), high.abs()) / 15 if grid == "symmetric" else (high - low) / 15
    zero = torch.full_like(scale, 8) if grid == "symmetric" else -low / scale
    code = (groups / scale[:, :, None] + part + zero[:, :, None]).clamp(0, 15)
    return ((code - zero[:, :, None]) * scale[:, :, None]).flatten(1)


def slopes(weight: torch.Tensor, grid: str, learned: Learned) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Slopes of the rounded values for offsets and clip factors, and those of the formula without rounding."""
    factors, values = random(*weight.shape, seed=5), vars(learned).values()
    mine = [value.clone().requires_grad_() for value in values]
    theirs = [value.double().requires_grad_() for value in values]
    with torch.enable_grad():
        (LearnedRounding(weight, grid, 4, 4).fake_quantize(Learned(*mine)) * factors).sum().backward()
        (smooth(weight.double(), grid, *theirs) * factors).sum().backward()
    return [value.grad.double() for value in mine], [value.grad for value in theirs]


ON_LEVELS = {
    # Ranges halved: -1 to 2.75, -2 to 1.75, and so on, in steps of 1/4. The ends are clipped, the others lie on levels.
    "asymmetric": [[-2.0, 0.25, 1.5, 5.5], [-4.0, -0.75, 0.0, 3.5]],
    "minimum": [[-1.0, 1.125, 3.375, 6.5], [1.0, 3.125, 5.375, 8.5]],
    "symmetric": [[-3.75, -0.75, 0.25, 1.5], [-1.0, 0.5, 0.25, 3.75]],
}


@pytest.mark.parametrize("grid", GRIDS)
def test_slopes_of_weights_on_their_levels_are_those_of_the_formula(grid):
    # Nothing is rounded, neither codes nor scales, so that the straight-through slopes must be exact.
    weight, half = torch.tensor(ON_LEVELS[grid]), torch.full((2, 1), 0.5)
    learned = Learned(torch.zeros(2, 4), half, half.clone())
    plain = smooth(weight.double(), grid, *(value.double() for value in vars(learned).values()))
    assert torch.allclose(LearnedRounding(weight, grid, 4, 4).fake_quantize(learned).double(), plain, atol=1e-6)
    for mine, formula in zip(*slopes(weight, grid, learned), strict=True):
        assert torch.allclose(mine, formula, rtol=1e-5, atol=1e-6) and bool(formula.any())


@pytest.mark.parametrize("grid", GRIDS)
def test_slopes_of_any_weights_point_where_those_of_the_formula_do(grid):
    # Rounded codes and scales stand where the formula has smooth ones, so that slopes agree in direction alone.
    weight = random(3, 8)
    start = Learned(*(0.7 * value for value in vars(LearnedRounding(weight, grid, 4, 4).start()).values()))
    for mine, formula in zip(*slopes(weight, grid, start), strict=True):
        assert torch.nn.functional.cosine_similarity(mine.flatten(), formula.flatten(), dim=0) > 0.9
