import copy

import pytest
import torch
from reductions import loud

from slimsweep.blockwise import fisher
from slimsweep.blockwise.fisher import fisher_diagonal
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.linear.base import PackedLinear, packed_layers, weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.techniques.quantization.rtn import RTN


def ids(sequences: int = 3, tokens: int = 10) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def by_autograd(module, names: list[str], token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean over sequences of the squared gradient of the summed NLL, per predicted token, on a copy of the model."""
    module = copy.deepcopy(module).requires_grad_(True)
    weights = [module.get_submodule(name).weight for name in names]
    sums = [torch.zeros_like(weight) for weight in weights]
    for row in token_ids:
        logits = module(input_ids=row[None]).logits[0]
        if logits.dim() == 1:
            total, predicted = -logits.log_softmax(dim=0).max(), 1
        else:
            total, predicted = -logits[:-1].log_softmax(dim=1).gather(1, row[1:, None]).sum(), len(row) - 1
        for held, slope in zip(sums, torch.autograd.grad(total, weights), strict=True):
            held += slope.square() / (predicted * len(token_ids))
    return dict(zip(names, sums, strict=True))


def test_it_is_the_mean_square_of_the_gradients_of_single_sequences(tiny):
    names = list(tiny.targets())
    found, expected = fisher_diagonal(tiny, names, text_batch(ids())), by_autograd(tiny.module, names, ids())
    for name in names:
        assert torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-4 * float(expected[name].mean()))
        assert found[name].dtype == torch.float32


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_transposed_layers_and_classifiers(name, tmp_path):
    model = loud(name, str(tmp_path))
    names = list(model.targets())
    found, expected = fisher_diagonal(model, names, text_batch(ids())), by_autograd(model.module, names, ids())
    for name, layer in model.targets().items():
        wanted = expected[name] if isinstance(layer, torch.nn.Linear) else expected[name].T
        assert found[name].shape == weight_2d(layer).shape
        assert torch.allclose(found[name], wanted, rtol=2e-3, atol=1e-4 * float(wanted.mean()))


def test_the_model_is_left_as_it_was(tiny):
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    fisher_diagonal(tiny, list(tiny.targets()), text_batch(ids()))
    assert all(torch.equal(value, before[name]) for name, value in tiny.module.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in tiny.module.parameters())


def test_equal_runs_give_equal_bits(tiny):
    names = list(tiny.targets())
    first, second = fisher_diagonal(tiny, names, text_batch(ids())), fisher_diagonal(tiny, names, text_batch(ids()))
    assert all(torch.equal(first[name], second[name]) for name in names)


def test_packed_layers_count_with_their_dequantised_weights(tiny):
    dense = copy.deepcopy(tiny)
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    for name, layer in packed_layers(tiny.module).items():
        dense.module.get_submodule(name).weight.copy_(layer.dequantized())
    names = list(tiny.targets())
    found, expected = fisher_diagonal(tiny, names, text_batch(ids())), fisher_diagonal(dense, names, text_batch(ids()))
    assert all(torch.equal(found[name], expected[name]) for name in names)
    assert all(isinstance(layer, PackedLinear) for layer in tiny.targets().values())


def test_packed_layers_are_back_after_an_error(tiny, monkeypatch):
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    layers = packed_layers(tiny.module)

    def fail(*_):
        raise RuntimeError("no text")

    monkeypatch.setattr(fisher, "loss", fail)
    with pytest.raises(RuntimeError, match="no text"):
        fisher_diagonal(tiny, list(tiny.targets()), text_batch(ids()))
    assert packed_layers(tiny.module) == layers


def test_gradients_that_are_not_finite_name_their_layers(tiny):
    name = "model.layers.1.mlp.down_proj"
    tiny.targets()[name].weight[0, 0] = torch.inf
    with pytest.raises(ModelError, match=rf"gradients of .*{name}.* are not finite"):
        fisher_diagonal(tiny, [name], text_batch(ids()))


def test_bf16_gradients_are_squared_in_fp32(tiny):
    names = list(tiny.targets())
    expected = fisher_diagonal(tiny, names, text_batch(ids()))
    tiny.module.to(torch.bfloat16)
    found = fisher_diagonal(tiny, names, text_batch(ids()))
    for name in names:
        assert found[name].dtype == torch.float32
        assert float((found[name] - expected[name]).norm() / expected[name].norm()) < 0.1
