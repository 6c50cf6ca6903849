import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from slimsweep.linear import tensor_train as forms
from slimsweep.linear.base import install, layer_shape, linear_forms, stored_bytes, weight_count
from slimsweep.linear.tensor_train import TensorTrain, TensorTrainEmbedding, TensorTrainHead

V, W = 17, 11
SETTINGS = {"rows": [2, 3, 3], "columns": [2, 2, 3], "ranks": [3, 5]}
NUMBERS = 4 * 3 + 3 * 6 * 5 + 5 * 9


class Small(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.embed, self.head = nn.Embedding(V, W), nn.Linear(W, V, bias=bias)
        self.requires_grad_(False)


@pytest.fixture
def small():
    """A table and its tied head, with random cores."""
    return with_train(Small(bias=True))


def with_train(module, dtype=torch.float32):
    torch.manual_seed(0)
    module = module.to(dtype)
    shapes = TensorTrainEmbedding.layout((V, W), SETTINGS).values()
    train = TensorTrain([torch.randn(shape) for shape, _ in shapes])
    install(module, "embed", TensorTrainEmbedding((V, W), SETTINGS, train))
    install(module, "head", TensorTrainHead((V, W), SETTINGS | {"embedding": "embed"}, train))
    return module


def test_rows_are_those_of_the_weight(small, monkeypatch):
    monkeypatch.setattr(forms, "LOOK_UP_TOKENS", 4)
    ids = torch.arange(V + 1).view(2, 9) % V
    assert small.embed.weight.shape == (V, W)
    torch.testing.assert_close(small.embed(ids), functional.embedding(ids, small.embed.weight))


@pytest.mark.parametrize("index", [V, -1, 1000])
def test_an_index_outside_the_vocabulary_is_refused(small, index):
    with pytest.raises(IndexError, match=f"and the embedding has rows 0 to {V - 1}"):
        small.embed(torch.tensor([[0, index]]))
    assert small.embed(torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, W)


def test_the_head_multiplies_by_the_weight_and_adds_its_bias(small):
    hidden = torch.randn(2, 3, W)
    expected = functional.linear(hidden, small.head.weight, small.head.bias)
    torch.testing.assert_close(small.head(hidden), expected)
    assert torch.equal(small.head.weight, small.embed.weight)


def test_both_read_the_same_cores_which_are_counted_once(small):
    assert sum(tensor.numel() for tensor in small.parameters()) == NUMBERS + V  # and the bias
    assert weight_count(small.embed) == weight_count(small.head) == NUMBERS
    assert stored_bytes(small.embed) == 4 * NUMBERS
    copied = copy.deepcopy(small)
    assert copied.head.table is copied.embed.table is not small.embed.table
    assert list(linear_forms(small)) == ["embed", "head"] and layer_shape(small.embed) == (V, W)


def test_cores_take_on_the_dtype(monkeypatch):
    module = with_train(Small(), torch.bfloat16)
    assert {tensor.dtype for tensor in module.parameters()} == {torch.bfloat16}
    assert module.head(module.embed(torch.tensor([3]))).dtype == torch.bfloat16


def test_an_empty_layer_has_the_shapes_of_a_full_one(small):
    empty = TensorTrainEmbedding.empty((V, W), SETTINGS)
    found = {name: tuple(tensor.shape) for name, tensor in empty.storage.items()}
    assert found == {name: tuple(tensor.shape) for name, tensor in small.embed.storage.items()}
    assert found == {name: shape for name, (shape, _) in empty.layout((V, W), SETTINGS).items()}
    assert all(tensor.is_meta for tensor in empty.parameters())


def test_rows_are_scaled_where_the_embedding_scaled_them():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * self.embed_scale

    module = Small()
    module.embed = Scaled(V, W)
    module.embed.register_buffer("embed_scale", torch.tensor(3.0), persistent=False)
    module = with_train(module)
    ids = torch.arange(V)
    torch.testing.assert_close(module.embed(ids), 3 * module.embed.weight)
    assert "embed.embed_scale" not in module.state_dict()


def test_macs_are_those_of_a_count_by_hand(small):
    assert small.embed.macs(7) == 7 * (2 * 3 * 10 + 4 * 5 * 3)
    assert small.head.macs(7) == 4 * 3 * 30 + 24 * 5 * 9 + 7 * V * W
