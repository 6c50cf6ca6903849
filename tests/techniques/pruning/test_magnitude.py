import pytest
import torch
from restatements import count, lowest_first, magnitude_layer

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.techniques.pruning.magnitude import Magnitude

WEIGHT = torch.tensor([[4.0, -1.0, 3.0, 2.0], [-8.0, 7.0, 5.0, -6.0]])


def test_the_smallest_of_the_layer_go():
    assert Magnitude(ratio=0.5).compress_layer(WEIGHT).weight.tolist() == [[0, 0, 0, 0], [-8, 7, 5, -6]]


def test_the_smallest_of_each_row_go():
    assert Magnitude(ratio=0.5, scope="row").compress_layer(WEIGHT).weight.tolist() == [[4, 0, 3, 0], [-8, 7, 0, 0]]


def test_the_smallest_of_each_group_go():
    assert Magnitude(ratio=0, pattern="1:2").compress_layer(WEIGHT).weight.tolist() == [[4, 0, 3, 0], [-8, 0, 0, -6]]


def test_an_odd_width_rounds_down():
    assert Magnitude(ratio=0.5).compress_layer(torch.tensor([[3.0, 1.0, 2.0]])).weight.tolist() == [[3, 0, 2]]


def test_ties_go_by_place_and_no_further_than_the_count():
    assert Magnitude(ratio=0.5).compress_layer(torch.tensor([[1.0, -1.0, 1.0, 1.0]])).weight.tolist() == [[0, 0, 1, 1]]


def test_golden_output_of_version_2():
    assert Magnitude.version == 2
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    assert Magnitude(ratio=0.4).compress_layer(weight).weight.tolist() == [
        [-1.25, 0, -0.5, 1.25, 0, -0.75],
        [-0.5, 1.25, 0, -0.75, 1, 0],
    ]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.77])
def test_parity_with_the_restatement_on_trained_layers(ratio, stories260k):
    before = {name: weight_2d(layer).clone() for name, layer in stories260k.targets().items()}
    Magnitude(ratio=ratio).apply(stories260k, StageContext())
    for name, layer in stories260k.targets().items():
        assert torch.equal(weight_2d(layer), magnitude_layer(before[name], ratio))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # bf16: most magnitudes are tied
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.77])
def test_global_ranks_all_layers_as_one(ratio, dtype, stories260k_source):
    model = stories260k_source.load(dtype, torch.device("cpu"))
    flat = torch.cat([weight_2d(layer).flatten() for layer in model.targets().values()]).float()
    keep = lowest_first(flat.abs(), flat == 0, count(ratio, flat.numel()))
    report = Magnitude(ratio=ratio, scope="global").apply(model, StageContext())
    pruned = torch.cat([weight_2d(layer).flatten() for layer in model.targets().values()]).float()
    assert torch.equal(pruned, torch.where(keep, flat, 0))
    assert sum(layer.zeros for layer in report.layers) == int((~keep).sum())


def test_unknown_scopes_are_refused():
    with pytest.raises(ValueError, match="scope='block': give layer or row or global"):
        Magnitude(ratio=0.5, scope="block")
