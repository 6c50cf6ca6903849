import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from slimsweep.linear.base import install, weight_2d
from slimsweep.linear.fake_quantized import FakeQuantizedLinear
from slimsweep.linear.mask import removed, set_removed
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN


def linear(rows: int = 6, columns: int = 24, dtype: torch.dtype = torch.float32, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=bias).to(dtype).requires_grad_(False)


def inputs(columns: int = 24, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 5, columns, generator=torch.Generator().manual_seed(1)).to(dtype)


def put_in_place(layer: nn.Module, form: nn.Module) -> nn.Module:
    """A packed layer with the bias and dtype of the one it replaces."""
    holder = nn.ModuleDict({"layer": layer})
    install(holder, "layer", form)
    return holder["layer"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group_size", [None, 8])
def test_it_computes_what_its_packed_layer_computes(dtype, grid, group_size):
    for bits in (2, 3, 4, 8):
        layer = linear(dtype=dtype)
        fake = FakeQuantizedLinear(layer, bits, group_size, grid)
        fake.weight.data += 0.01  # as training moves it
        expected = fake(inputs(dtype=dtype))
        packed = put_in_place(layer, fake.packed())
        assert torch.equal(packed(inputs(dtype=dtype)), expected)
        reference = RTN(bits=bits, group_size=group_size, grid=grid).compress_layer(fake.weight.data)
        assert torch.equal(packed.codes(), reference.codes())


def test_gradients_reach_weight_and_bias():
    layer = linear()
    fake = FakeQuantizedLinear(layer, 4, None, "asymmetric")
    fake.requires_grad_(True)
    with torch.enable_grad():
        fake(inputs()).sum().backward()
    # Of a sum of outputs, the gradient of each row is the sum of the inputs, and the bias's is their number.
    expected = inputs().sum((0, 1)).expand(6, 24).masked_fill(fake.levels.clipped(layer.weight), 0)
    assert torch.allclose(fake.weight.grad, expected, atol=1e-5)
    assert fake.bias is layer.bias and layer.bias.grad.tolist() == [10.0] * 6


def test_the_grid_follows_the_weight():
    fake = FakeQuantizedLinear(linear(), 3, 8, "asymmetric")
    before = fake.levels.scale
    fake.weight.data *= 2
    assert torch.equal(fake.levels.scale, 2 * before)


@pytest.mark.parametrize("grid", GRIDS)
def test_removed_weights_stay_zero_unless_they_are_ordinary(grid):
    layer = linear(bias=False)
    layer.weight += 3  # zero lies far below every other weight
    mask = torch.rand(6, 24, generator=torch.Generator().manual_seed(2)) < 0.5
    layer.weight[mask] = 0
    set_removed(layer, mask)
    fake = FakeQuantizedLinear(layer, 2, 8, grid)
    assert torch.equal(removed(fake), mask)
    dense = fake(torch.eye(24)).T
    assert bool((dense[mask] == 0).all()) and bool((fake.packed().weight[mask] == 0).all())
    assert removed(FakeQuantizedLinear(layer, 2, 8, grid, is_masked=False)) is None


def test_a_transposed_layer_is_turned():
    layer = Conv1D(6, 24)
    layer.weight.data, layer.bias.data = linear().weight.T.clone(), torch.arange(6.0)
    fake = FakeQuantizedLinear(layer.requires_grad_(False), 3, 8, "asymmetric")
    same = FakeQuantizedLinear(linear(), 3, 8, "asymmetric")
    assert torch.allclose(fake(inputs()), same(inputs()) - linear().bias + layer.bias, atol=1e-6)
    fake.weight.data += 1  # in fp32 the memory is shared
    assert torch.equal(weight_2d(layer), fake.weight)


def test_a_packed_layer_is_unpacked():
    layer = put_in_place(linear(), NF4().compress_layer(linear().weight.data))
    fake = FakeQuantizedLinear(layer, 8, None, "asymmetric")
    assert torch.equal(fake.weight, layer.weight) and fake.bias is layer.bias


def test_a_weight_that_is_no_number_breaks_nothing_but_its_outputs():
    layer = linear()
    layer.weight[0, 0] = torch.nan
    outputs = FakeQuantizedLinear(layer, 4, 8, "asymmetric")(inputs())
    assert bool(outputs[..., 0].isnan().all()) and bool(outputs[..., 1:].isfinite().all())
