import pytest
import torch

from slimsweep.linear.base import install, kinds, macs, stored_bytes, weight_count
from slimsweep.linear.low_rank import LowRankLinear
from slimsweep.models.language_model import weights_digest

NAME = "model.layers.1.mlp.up_proj"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_outputs_are_two_products_by_hand():
    layer = LowRankLinear.from_factors(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0], [1.0]]))
    assert layer.weight.tolist() == [[10, 20, 30], [1, 2, 3]]
    assert layer(torch.tensor([1.0, 1.0, 0.0])).tolist() == [30, 3]
    layer.bias = torch.nn.Parameter(torch.tensor([0.5, 0.0]))
    assert layer(torch.tensor([1.0, 1.0, 0.0])).tolist() == [30.5, 3]


def test_counts_are_those_of_both_factors():
    layer = LowRankLinear.from_factors(normal(3, 7), normal(5, 3))
    assert (layer.out_features, layer.in_features, layer.rank) == (5, 7, 3)
    assert weight_count(layer) == 3 * (5 + 7)
    assert macs(layer, 10) == 10 * 3 * (5 + 7)
    assert stored_bytes(layer) == 4 * 3 * (5 + 7)


def test_a_planned_layer_has_the_tensors_of_a_real_one():
    layer = LowRankLinear.from_factors(normal(3, 7), normal(5, 3))
    planned = LowRankLinear.empty((5, 7), layer.settings)
    assert {name: tensor.shape for name, tensor in planned.storage.items()} == {
        name: tensor.shape for name, tensor in layer.storage.items()
    }
    assert planned.a.is_meta and weight_count(planned) == weight_count(layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_take_on_the_dtype_of_the_model(dtype, tiny_source):
    model = tiny_source.load(dtype, torch.device("cpu"))
    before = weights_digest(model)
    install(model.module, NAME, LowRankLinear.from_factors(normal(4, 32), normal(48, 4)))
    layer = model.targets()[NAME]
    assert layer.a.dtype == layer.b.dtype == layer.weight.dtype == layer(normal(2, 32).to(dtype)).dtype == dtype
    assert not layer.has_single_weights and weights_digest(model) != before


def test_the_kind_is_known_to_every_reader_of_saved_models():
    assert kinds()["low_rank"] is LowRankLinear
