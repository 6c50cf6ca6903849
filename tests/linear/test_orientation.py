import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from slimsweep.linear.orientation import is_transposed, layer_shape, set_size, weight_2d


def test_a_conv1d_and_a_linear_of_one_function_have_one_weight_and_one_shape():
    conv, plain = Conv1D(3, 5), nn.Linear(5, 3)  # 5 inputs, 3 outputs
    plain.weight.data, plain.bias = weight_2d(conv).clone(), conv.bias
    assert is_transposed(conv) and not is_transposed(plain)
    assert layer_shape(conv) == layer_shape(plain) == weight_2d(conv).shape == (3, 5)
    inputs = torch.randn(2, 4, 5)
    assert torch.allclose(conv(inputs), plain(inputs), atol=1e-6)


def test_writing_to_the_weight_changes_the_layer():
    conv = Conv1D(3, 5)
    weight_2d(conv)[2, 4] = 7
    assert conv.weight[4, 2] == 7


def test_a_size_is_set_by_its_place_in_the_shape():
    for layer in (Conv1D(3, 5), nn.Linear(5, 3)):
        set_size(layer, 0, 2)
        set_size(layer, 1, 4)
        assert layer_shape(layer) == (2, 4)
