import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from slimsweep.linear.adapter import AdapterLinear, drawn_factors
from slimsweep.linear.base import install, macs, stored_bytes, weight_count
from slimsweep.linear.mask import removed, set_removed
from slimsweep.techniques.quantization.rtn import RTN


def drawn(rows: int, columns: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return torch.randn(rank, columns, generator=chance), torch.randn(rows, rank, generator=chance)


def inputs(columns: int) -> torch.Tensor:
    return torch.randn(3, columns, generator=torch.Generator().manual_seed(1))


def plain(kind: str) -> nn.Module:
    torch.manual_seed(0)
    layer = Conv1D(6, 10) if kind == "Conv1D" else nn.Linear(10, 6)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer.requires_grad_(False)


@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_a_plain_layer_gets_the_scaled_product_beside_its_weight(kind):
    layer = plain(kind)
    down, up = drawn(6, 10, 2)
    weight = layer.weight.T if kind == "Conv1D" else layer.weight
    expected = inputs(10) @ (weight + 0.5 * up @ down).T + layer.bias
    holder = nn.ModuleDict({"layer": layer})
    install(holder, "layer", AdapterLinear.beside(layer, down, up, 0.5))
    torch.testing.assert_close(holder["layer"](inputs(10)), expected)
    torch.testing.assert_close(holder["layer"].weight, weight + 0.5 * up @ down)


def test_everything_is_counted():
    form = AdapterLinear.beside(nn.Linear(10, 6, bias=False).requires_grad_(False), *drawn(6, 10, 2))
    numbers = 60 + 2 * (10 + 6)
    assert weight_count(form) == numbers and macs(form, 5) == 5 * numbers and stored_bytes(form) == 4 * numbers


def test_beside_a_packed_layer_the_product_is_full_precision():
    packed = RTN(bits=4, group_size=None).compress_layer(plain("Linear").weight)
    down, up = drawn(6, 10, 2)
    form = AdapterLinear.beside(packed, down, up)
    torch.testing.assert_close(form(inputs(10)), inputs(10) @ (packed.weight + up @ down).T)
    assert weight_count(form) == 60 + 2 * 16
    empty = AdapterLinear.empty((6, 10), form.settings)
    assert {name: one.shape for name, one in empty.state_dict().items()} == {
        name: one.shape for name, one in form.state_dict().items()
    }


def test_held_zeros_stay_zero_in_forward_and_weight():
    layer = plain("Linear")
    mask = torch.zeros(6, 10, dtype=torch.bool)
    mask[:, ::2] = True
    layer.weight.data[mask] = 0
    set_removed(layer, mask)
    down, up = drawn(6, 10, 2)
    form = AdapterLinear.beside(layer, down, up)
    form.hold_zeros(layer)
    expected = layer.weight + (up @ down) * ~mask
    torch.testing.assert_close(form(inputs(10)), inputs(10) @ expected.T)
    assert bool((form.weight[mask] == 0).all()) and torch.equal(removed(form.base), mask)


def test_a_layer_without_a_mask_has_no_zeros_to_hold():
    form = AdapterLinear.beside(plain("Linear"), *drawn(6, 10, 2))
    form.hold_zeros(plain("Linear"))
    assert form.keep is None


def test_drawn_factors_begin_with_a_product_of_zero():
    down, up = drawn_factors(plain("Linear"), 3, torch.Generator().manual_seed(0))
    assert down.shape == (3, 10) and up.shape == (6, 3)
    assert not bool(up.any()) and bool(down.any()) and float(down.abs().max()) <= 10**-0.5


def test_gradients_reach_the_factors_and_nothing_else():
    packed = RTN(bits=4, group_size=None).compress_layer(plain("Linear").weight)
    form = AdapterLinear.beside(packed, *drawn(6, 10, 2))
    form.down.requires_grad_(True), form.up.requires_grad_(True)
    given = inputs(10).requires_grad_(True)
    form(given).sum().backward()
    assert form.down.grad is not None and form.up.grad is not None
    torch.testing.assert_close(given.grad, form.weight.sum(dim=0).expand(3, 10))
