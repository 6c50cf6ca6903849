"""Packed integers against their own format: words of 32 bits, read bit by bit, and compressed-tensors' reader."""

import itertools
import math

import pytest
import torch

from slimsweep.linear.uniform import IntegerLinear
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN

BITS = (2, 3, 4, 8)
SHAPES = [((5, 64), 16), ((33, 172), 43), ((7, 43), None), ((3, 96), 32), ((1, 1), None), ((6, 172), 4)]


def packed(bits: int, grid: str, shape: tuple[int, int], group_size: int | None, zeros: float = 0) -> IntegerLinear:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(bits))
    pruned = Magnitude(ratio=zeros).compress_layer(weight)
    technique = RTN(bits=bits, grid=grid, group_size=group_size)
    return technique.compress_layer(pruned.weight, removed=~pruned.keep)


def unpacked(words: list[int], bits: int, count: int) -> list[int]:
    """Codes of one row, lowest bits of the first word first, none across the border of a row."""
    stream = sum((word & 0xFFFFFFFF) << (32 * position) for position, word in enumerate(words))
    return [((stream >> (bits * index)) & (2**bits - 1)) - 2 ** (bits - 1) for index in range(count)]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("shape", "group_size"), SHAPES)
def test_codes_lie_side_by_side_in_words(bits, shape, group_size):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    grid = RTN(bits=bits, group_size=group_size).compress_layer(weight).grid
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, dtype=torch.int8)
    layer = IntegerLinear.from_codes(grid, codes)
    rows = [unpacked(row, bits, shape[1]) for row in layer.weight_packed.tolist()]
    assert rows == codes.tolist()
    assert torch.equal(layer.codes(), codes)
    assert layer.weight_shape.tolist() == list(shape)
    columns = [unpacked(column, bits, shape[0]) for column in layer.weight_zero_point.T.tolist()]
    assert columns == grid.zero.T.tolist()
    assert torch.equal(layer.grid.zero, grid.zero)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("shape", "group_size"), SHAPES)
def test_the_layout_without_values_is_what_is_stored(bits, grid, shape, group_size):
    layer = packed(bits, grid, shape, group_size)
    found = {name: (tuple(part.shape), part.dtype) for name, part in layer.storage.items()}
    assert found == IntegerLinear.layout(shape, layer.settings)
    assert layer.settings == {"bits": bits, "group_size": group_size, "grid": grid}
    empty = IntegerLinear.empty(shape, layer.settings)
    assert empty.weight_packed.is_meta and empty.bits_per_weight == layer.bits_per_weight
    assert layer.code_bits == bits
    (rows, columns), groups = shape, shape[1] // (group_size or shape[1])
    zeros = 4 * math.ceil(rows * bits / 32) * groups if grid == "asymmetric" else 0
    minima = 4 * rows * groups if grid == "minimum" else 0
    expected = 4 * rows * math.ceil(columns * bits / 32) + 2 * rows * groups + zeros + minima + 16
    assert sum(part.nbytes for part in layer.storage.values()) == expected
    assert layer.bits_per_weight == 8 * expected / (rows * columns)


def test_one_group_a_row_is_one_scale_a_row():
    weight = torch.randn(4, 32)
    whole, grouped = (RTN(group_size=size).compress_layer(weight) for size in (None, 32))
    assert whole.settings == grouped.settings and grouped.settings["group_size"] is None


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grid", GRIDS)
def test_dequantized_is_the_grid_formula_in_every_dtype(bits, grid):
    layer = packed(bits, grid, (33, 172), 43)
    rows = [unpacked(row, bits, 172) for row in layer.weight_packed.tolist()]
    values = torch.tensor(rows, dtype=torch.float64).unflatten(1, (4, 43))
    scale = layer.weight_scale.double()[:, :, None]
    if grid == "minimum":
        exact = (values + 2 ** (bits - 1)) * scale + layer.weight_minimum.double()[:, :, None]
    elif grid == "asymmetric":
        zeros = torch.tensor([unpacked(column, bits, 33) for column in layer.weight_zero_point.T.tolist()])
        exact = (values - zeros.T.double()[:, :, None]) * scale
    else:
        exact = values * scale
    exact = exact.flatten(1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layer.dtype = dtype
        assert layer.dequantized().dtype == dtype
        if dtype == torch.float16 and grid != "minimum":  # a bf16 scale may be finer than fp16 holds
            assert torch.allclose(layer.dequantized().double(), exact, rtol=2**-9, atol=1e-6)
        else:
            assert torch.equal(layer.dequantized(), exact.float().to(dtype))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("grid", ["symmetric", "asymmetric"])
@pytest.mark.parametrize(("shape", "group_size"), [((8, 64), 16), ((33, 172), 43), ((7, 43), None)])
def test_compressed_tensors_reads_the_same_weights(bits, grid, shape, group_size):
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    layer = packed(bits, grid, shape, group_size)
    scheme = layer.compressed_tensors_scheme()
    assert scheme["format"] == "pack-quantized"
    scheme = QuantizationScheme(targets=["Linear"], weights=scheme["weights"])
    for dtype in (torch.float32, torch.bfloat16):
        layer.dtype = dtype
        tensors = {name: part.detach().clone() for name, part in layer.storage.items()}
        tensors["weight_scale"] = tensors["weight_scale"].to(dtype)  # as transformers does with a model's dtype
        assert torch.equal(PackedQuantizationCompressor.decompress(tensors, scheme)["weight"], layer.dequantized())


def test_compressed_tensors_has_no_float_minimum():
    assert packed(4, "minimum", (4, 32), None).compressed_tensors_scheme() is None


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_weight_on_its_levels_is_packed_to_the_same_tensors(bits, grid):
    layer = packed(bits, grid, (33, 172), 43)
    again = layer.requantize(layer.dequantized())
    assert again.storage.keys() == layer.storage.keys()
    if grid == "minimum":  # where a level is 0 by chance of rounding, it becomes exact
        assert torch.equal(again.codes(), layer.codes())
    else:
        assert all(torch.equal(again.storage[name], part) for name, part in layer.storage.items())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group_size", [None, 4])
def test_what_was_pruned_after_is_zero_and_the_rest_near(bits, grid, group_size):
    # In fours all weights may have one sign, so that the range must first reach 0.
    layer = packed(bits, grid, (33, 172), group_size)
    weight = layer.dequantized()
    pruned = Magnitude(ratio=0.5).compress_layer(weight).weight
    found = layer.requantize(pruned).dequantized()
    assert torch.all(found[pruned == 0] == 0)
    if grid == "minimum":
        steps = layer.weight_scale.float().repeat_interleave(172 // layer.weight_scale.shape[1], dim=1)
        reach = weight.abs().amax() / (2**bits - 1)
        assert torch.all((found - pruned).abs() <= torch.maximum(steps, reach) * 1.01)
    else:
        assert torch.equal(found, pruned)


@pytest.mark.parametrize("bits", BITS)
def test_pruned_weights_are_stored_as_zeros(bits):
    for grid, group_size in itertools.product(GRIDS, (None, 4)):
        layer = packed(bits, grid, (6, 172), group_size, zeros=0.6)
        assert int((layer.dequantized() == 0).sum()) >= math.floor(0.6 * 6 * 172)


def test_a_forward_is_one_through_the_dequantised_weight():
    layer, inputs = packed(3, "asymmetric", (33, 172), 43), torch.randn(2, 5, 172)
    layer.bias = torch.nn.Parameter(torch.randn(33))
    assert torch.allclose(layer(inputs), inputs @ layer.weight.T + layer.bias, atol=1e-4)


def test_levels_that_bf16_has_rounded_together_stay_what_they_are():
    layer = RTN(bits=8, group_size=None).compress_layer(
        torch.rand(4, 512, generator=torch.Generator().manual_seed(0)) + 2
    )
    layer.dtype = torch.bfloat16
    again = layer.requantize(layer.dequantized().float())
    assert torch.equal(again.codes(), layer.codes())


def test_small_scales_keep_their_precision_in_fp16():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * 3e-4
    layer = RTN(bits=8, group_size=None).compress_layer(weight)
    layer.dtype = torch.float16
    exact = (layer.codes().float() - layer.grid.zero) * layer.weight_scale.float()
    assert torch.equal(layer.dequantized(), exact.half())
