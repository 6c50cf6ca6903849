"""Grids against a restatement one number at a time, in Python's own fp64."""

import math

import numpy as np
import pytest
import torch

from slimsweep.numerics.uniform_grid import GRIDS, Grid, fit

BITS = (2, 3, 4, 8)


def stored(value: float, kind: str) -> float:
    """A positive number as bf16, or as fp16 for `minimum`: nearest, ties to even; at least the least, and 1 for 0."""
    if kind == "minimum":
        found = float(np.float16(value)) if value == 0 or value > 2**-24 else 2.0**-24
    elif value == 0:
        found = 0.0
    else:  # bf16: 8 significant bits, subnormal numbers by 2^-133
        step = 2.0 ** max(math.floor(math.log2(value)) - 7, -133)
        found = round(value / step) * step
    return found if found > 0 else 1.0


def levels_of(group: list[float], kind: str, bits: int) -> list[float]:
    """The levels of one group, from the definition of each grid."""
    low, high, steps = min(group), max(group), 2**bits - 1
    if kind == "symmetric":
        scale = stored(float(np.float32(2 * max(abs(low), abs(high))) / np.float32(steps)), kind)
        return [scale * code for code in range(-(2 ** (bits - 1)), 2 ** (bits - 1))]
    if kind == "minimum":
        span = np.float32(high - low) if high > low else np.float32(abs(low))
        scale = stored(float(span / np.float32(steps)), kind)
        return [float(np.float32(scale * step + low)) for step in range(steps + 1)]
    low, high = min(low, 0.0), max(high, 0.0)
    scale = stored(float(np.float32(high - low) / np.float32(steps)), kind)
    zero = min(round(float(np.float32(-low) / np.float32(scale))), steps)
    return [scale * (step - zero) for step in range(steps + 1)]


def grouped(weight: torch.Tensor, group_size: int | None) -> list[list[float]]:
    return [group for row in weight.tolist() for group in np.array_split(row, len(row) // (group_size or len(row)))]


def assert_nearest(weight: torch.Tensor, kind: str, bits: int, group_size: int | None) -> None:
    grid = fit(weight, kind, bits, group_size)
    codes = grid.quantize(weight)
    assert int(codes.min()) >= -(2 ** (bits - 1)) and int(codes.max()) < 2 ** (bits - 1)
    values = grid.dequantize(codes)
    assert torch.equal(grid.fake_quantize(weight), values)
    for given, found in zip(grouped(weight, group_size), grouped(values, group_size), strict=True):
        levels = levels_of(list(given), kind, bits)
        for wanted, got in zip(given, found, strict=True):
            assert got in levels
            best = min(abs(wanted - level) for level in levels)
            assert abs(wanted - got) <= best + 1e-6 * abs(wanted)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("width", "group_size"), [(48, 16), (43, None), (172, 4), (172, 43), (5, 1)])
def test_every_weight_goes_to_the_nearest_level_of_its_group(kind, bits, width, group_size):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(3, width, generator=generator) * torch.tensor([[1e-4], [1.0], [300.0]])
    assert_nearest(weight, kind, bits, group_size)


EDGES = {
    "constant": [0.3] * 8,
    "constant_below_0": [-0.3] * 8,
    "zeros": [0.0] * 8,
    "one_value_and_zeros": [0.0] * 7 + [0.7],
    "above_0": [3.0, 3.5, 4.0, 4.5, 3.2, 3.3, 3.9, 4.4],
    "below_0": [-3.0, -3.5, -4.0, -4.5, -3.2, -3.3, -3.9, -4.4],
    "subnormal": [1e-42] * 7 + [0.0],
}


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("edge", EDGES)
def test_groups_of_one_sign_of_one_value_and_of_nothing(kind, bits, edge):
    weight = torch.tensor([EDGES[edge]])
    assert_nearest(weight, kind, bits, None)
    values = fit(weight, kind, bits, None).fake_quantize(weight)
    assert bool(values.isfinite().all())
    if edge == "zeros":
        assert values.tolist() == weight.tolist()
    if edge.startswith("constant") and kind == "minimum":
        assert values.tolist() == weight.tolist()
    if edge.startswith("constant") and kind == "asymmetric":  # but for the rounding of the scale to bf16
        assert torch.allclose(values, weight, rtol=2**-8)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", BITS)
def test_zero_is_a_level_of_integer_grids(kind, bits):
    weight = torch.tensor(list(EDGES.values()))
    grid = fit(weight, kind, bits, 4)
    assert torch.all(grid.fake_quantize(torch.zeros_like(weight)) == 0)
    assert grid.with_zero(weight == weight) is grid


def test_a_grid_by_hand():
    grid = fit(torch.tensor([[-1.0, 0.4, 2.0, 0.6]]), "asymmetric", 2, None)  # scale 1, levels -1, 0, 1, 2
    assert (grid.scale.tolist(), grid.zero.tolist()) == ([[1.0]], [[-1.0]])
    assert grid.quantize(torch.tensor([[-1.0, 0.4, 2.0, 0.6]])).tolist() == [[-2, -1, 1, 0]]
    grid = fit(torch.tensor([[-1.5, 0.4, 1.0, 0.6]]), "symmetric", 2, None)  # scale 2 x 1.5 / 3, levels -2, -1, 0, 1
    assert grid.fake_quantize(torch.tensor([[-1.5, 0.4, 1.0, 0.6]])).tolist() == [[-2.0, 0.0, 1.0, 1.0]]
    grid = fit(torch.tensor([[0.25, 0.5, 3.25, 1.9]]), "minimum", 2, None)  # scale 1, levels 0.25 to 3.25
    assert grid.fake_quantize(torch.tensor([[0.25, 0.5, 3.25, 1.9]])).tolist() == [[0.25, 0.25, 3.25, 2.25]]


def test_scales_are_rounded_before_codes_are_chosen():
    # 15 steps of 1 + 1/512: bf16 holds a scale of 1, and 7.51 then lies nearer to 8 than to 7.
    weight = torch.tensor([[0.0, 15 * (1 + 1 / 512), 7.51]])
    grid = fit(weight, "asymmetric", 4, None)
    assert grid.scale.item() == 1 and grid.fake_quantize(weight).tolist() == [[0.0, 15.0, 8.0]]
    assert round(7.51 / (1 + 1 / 512)) == 7  # so the order matters


@pytest.mark.parametrize("kind", GRIDS)
def test_of_two_levels_equally_near_the_even_step_is_taken(kind):
    # Steps of 1 from the code that stands for 0, or for the minimum 0.
    weight = torch.tensor([[0.5, 1.5, 2.5, 3.5]])
    minimum = torch.zeros(1, 1) if kind == "minimum" else None
    zero = torch.full((1, 1), -8.0 if kind == "asymmetric" else 0.0)
    grid = Grid(kind, 4, torch.ones(1, 1), zero, minimum)
    assert grid.fake_quantize(weight).tolist() == [[0.0, 2.0, 2.0, 4.0]]


def test_what_lies_beyond_the_range_takes_the_last_level():
    grid = fit(torch.tensor([[-1.0, 2.0]]), "asymmetric", 2, None)
    assert grid.fake_quantize(torch.tensor([[-50.0, 50.0]])).tolist() == [[-1.0, 2.0]]


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", BITS)
def test_levels_stay_what_they_are(kind, bits):
    weight = torch.randn(7, 48, generator=torch.Generator().manual_seed(2))
    grid = fit(weight, kind, bits, 16)
    codes = grid.quantize(weight)
    assert torch.equal(grid.quantize(grid.dequantize(codes)), codes)


@pytest.mark.parametrize("bits", BITS)
def test_minimum_moves_by_at_most_half_a_step_to_hold_zeros_exactly(bits):
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(3)) * 0.03
    weight[:, 1::4] = 0
    weight[25:] += 0  # rows with zeros in the first group only:
    weight[25:, 16:] += (weight[25:, 16:] == 0) * 0.01
    grid, zeros = fit(weight, "minimum", bits, 16), weight == 0
    moved = grid.with_zero(zeros)
    assert torch.all(moved.fake_quantize(weight)[zeros] == 0)
    assert torch.equal(moved.scale, grid.scale)
    assert torch.all((moved.minimum - grid.minimum).abs() <= grid.scale / 2 * (1 + 1e-6))
    assert torch.equal(moved.minimum[25:, 1:], grid.minimum[25:, 1:])  # groups without zeros
    assert not torch.equal(moved.minimum, grid.minimum)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("edge", EDGES)
def test_minimum_reaches_a_zero_outside_its_range_and_keeps_the_rest_near(bits, edge):
    weight = torch.tensor([EDGES[edge]])
    pruned = weight.clone()
    pruned[0, :4] = 0
    found = fit(weight, "minimum", bits, None).with_zero(pruned == 0).fake_quantize(pruned)
    assert torch.all(found[0, :4] == 0)
    reach = float(weight.abs().max()) + 1e-6
    # Half a step of the widened range, which for equal weights spans twice their value.
    assert float((found - pruned).abs().max()) <= 2 * reach / (2**bits - 1) / 2 * 1.1 + 1e-6


def test_clip_narrows_the_range():
    weight = torch.tensor([[-4.0, 8.0, 0.0, 2.0], [-1.0, 1.0, 0.5, 0.0]])
    clip = torch.tensor([[0.5], [1.0]])
    grid = fit(weight, "asymmetric", 2, None, clip)  # row 0 spans -2 to 4 in steps of 2
    assert grid.scale.tolist() == [[2.0], [pytest.approx(2 / 3, rel=2**-8)]]
    assert grid.fake_quantize(weight)[0].tolist() == [-2.0, 4.0, 0.0, 2.0]


def test_parts_and_neighbours_of_grids():
    weight = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    for kind in GRIDS:
        whole = fit(weight, kind, 3, 4)
        parts = [fit(weight[:, start : start + 4], kind, 3, None) for start in (0, 4, 8)]
        assert torch.equal(Grid.beside(parts).fake_quantize(weight), whole.fake_quantize(weight))
        order = torch.randperm(12)
        shuffled = whole.columns(12).part(order)
        assert torch.equal(shuffled.fake_quantize(weight[:, order]), whole.fake_quantize(weight)[:, order])


def test_groups_of_inputs():
    grid = fit(torch.randn(2, 12), "symmetric", 4, 4)
    assert grid.group_of(12).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert fit(torch.randn(2, 5), "symmetric", 4, None).group_of(5).tolist() == [0] * 5


def test_the_offset_is_the_code_of_the_minimum_or_of_zero():
    weight = torch.tensor([[-1.0, 0.4, 2.0, 0.6]])
    assert fit(weight, "asymmetric", 2, None).offset.tolist() == [[-1.0]]
    assert fit(weight, "symmetric", 2, None).offset.tolist() == [[0.0]]
    assert fit(weight, "minimum", 2, None).offset.tolist() == [[-2.0]]


def test_scales_beyond_their_dtype_are_held_at_its_ends():
    large = fit(torch.tensor([[0.0, 3e6]]), "minimum", 4, None)
    assert float(large.scale) == 65504
    small = fit(torch.tensor([[0.0, 3e-9]]), "minimum", 8, None)
    assert float(small.scale) == 2**-24  # the least of fp16


def test_clipping_shrinks_about_zero_or_about_the_middle_where_zero_is_no_level():
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    clipped = fit(weight, "minimum", 2, None, clip=0.5)
    assert float(clipped.minimum) == 1.5
    assert float(clipped.scale) == pytest.approx(1 / 3, rel=1e-3)
