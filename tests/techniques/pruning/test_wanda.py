import pytest
import torch
from restatements import layer_inputs, wanda_layer

from slimsweep.linear.base import weight_2d
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.wanda import Wanda


def test_input_norm_outranks_magnitude():
    weight = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    squared_norm = torch.tensor([1.0, 100.0, 1.0, 1.0])  # scores 4, 10, 3, 2
    assert Wanda(ratio=0.5).compress_layer(weight, squared_norm).weight.tolist() == [[4.0, 1.0, 0.0, 0.0]]


def test_statistic_is_the_squared_norm_in_fp32():
    inputs = torch.tensor([[1.0, 300.0], [2.0, 300.0]], dtype=torch.float16)  # 300 squared is beyond fp16
    assert Wanda(ratio=0.5).statistic(inputs).tolist() == [5.0, 180_000.0]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_equal_norms_are_magnitude_by_row(pattern):
    weight = torch.randn(9, 24, generator=torch.Generator().manual_seed(0))
    expected = Magnitude(ratio=0.4, scope="row", pattern=pattern).compress_layer(weight).weight
    found = Wanda(ratio=0.4, pattern=pattern).compress_layer(weight, torch.full((24,), 4.0)).weight
    assert torch.equal(found, expected)


def test_a_dead_input_drops_first_and_never_beyond_the_count():
    weight = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    dead = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert Wanda(ratio=0.25).compress_layer(weight, dead).weight.tolist() == [[0, 1, 2, 3]]
    assert Wanda(ratio=0.2).compress_layer(weight, dead).weight.tolist() == weight.tolist()


def test_infinite_norms_make_no_nan():
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    squared_norm = torch.tensor([float("inf"), 1.0, 1.0, float("inf")])
    assert Wanda(ratio=0.5).compress_layer(weight, squared_norm).weight.tolist() == [[0, 0, 2, 3]]


def test_golden_output_of_version_2():
    assert Wanda.version == 2
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    squared_norm = torch.tensor([1.0, 4.0, 9.0, 16.0, 25.0, 36.0])
    assert Wanda(ratio=0.5).compress_layer(weight, squared_norm).weight.tolist() == [
        [0, 0, -0.5, 1.25, 0, -0.75],
        [0, 1.25, 0, -0.75, 1, 0],
    ]


@pytest.mark.parametrize("group", [None, (2, 4)])
def test_parity_with_the_restatement_on_trained_layers(group, shared, stories260k):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:8000]
    token_ids = torch.tensor(stories260k.tokenizer(text)["input_ids"][: 8 * 256]).view(8, 256)
    names = [name for name, layer in stories260k.targets().items() if weight_2d(layer).shape[1] % 4 == 0]
    technique = Wanda(ratio=0.5, pattern=f"{group[0]}:{group[1]}" if group else "unstructured")
    for name, inputs in layer_inputs(stories260k.module, names, token_ids).items():
        weight = weight_2d(stories260k.targets()[name])
        found = technique.compress_layer(weight, technique.statistic(inputs)).weight
        expected = wanda_layer(weight.double(), inputs, 0.5, group).float()
        assert torch.equal(found, expected)
