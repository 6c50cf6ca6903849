import pytest
import torch
from restatements import min_max_grid, perplexity

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_row_by_hand():
    # From -1 to 2 in steps of 1; and in groups of two: 0 to 0.75 in steps of 0.25, -3 to 0 in steps of 1.
    assert RTN(bits=2, group_size=None).compress_layer(torch.tensor([[-1.0, 0.4, 2.0, 0.6]])).weight.tolist() == [
        [-1.0, 0.0, 2.0, 1.0]
    ]
    found = RTN(bits=2, group_size=2).compress_layer(torch.tensor([[0.75, 0.3, -3.0, -1.4]]))
    assert found.weight.tolist() == [[0.75, 0.25, -3.0, -1.0]]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("width", "group_size"), [(172, None), (172, 43), (43, 1)])
def test_it_is_the_formula(bits, symmetric, width, group_size):
    weight = normal(7, width)
    found = RTN(bits=bits, group_size=group_size, grid="symmetric" if symmetric else "asymmetric").compress_layer(
        weight
    )
    for start in range(0, width, group_size or width):
        part = weight[:, start : start + (group_size or width)].double()
        scale, zero = (one[:, None] for one in min_max_grid(part, bits, symmetric))
        expected = (((part / scale).round() + zero).clamp(0, 2**bits - 1) - zero) * scale
        assert torch.equal(found.weight[:, start : start + part.shape[1]].double(), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zeros_stay_zero(grid, bits):
    weight = Magnitude(ratio=0.5).compress_layer(normal(7, 172)).weight
    for group_size in (None, 4):
        found = RTN(bits=bits, grid=grid, group_size=group_size).compress_layer(weight, removed=weight == 0)
        assert torch.all(found.weight[weight == 0] == 0)
    loose = RTN(bits=bits, grid="minimum", preserve_sparsity=False, group_size=None).compress_layer(
        weight, removed=weight == 0
    )
    assert torch.any(loose.weight[weight == 0] != 0)


def test_golden_output_of_version_2():
    assert RTN.version == 2
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    found = RTN(bits=3, group_size=3).compress_layer(weight)
    assert found.codes().tolist() == [[-4, 3, -1, 3, 0, -4], [-4, 3, -1, -4, 3, -1]]
    assert found.weight.tolist() == [
        [-1.25, 0.5, -0.5, 1.140625, 0.28515625, -0.85546875],
        [-0.5, 1.25, 0.25, -0.75, 1.0, 0.0],
    ]


def test_what_the_embedded_model_was_published_in_is_rounded_to_itself(smollm2):
    # Its weights are those of a Q4_1 file: 4 bits, a float minimum, groups of 32. Whoever rounds them to that grid
    # measures no loss at all, and should say why.
    model = smollm2.load(torch.float32, CPU)
    technique = RTN(bits=4, grid="minimum", group_size=32)
    for name, layer in list(model.targets().items())[:4]:
        weight = weight_2d(layer)
        error = float((technique.compress_layer(weight).weight - weight).norm() / weight.norm())
        assert error < 1e-3, name
        other = RTN(bits=4, grid="asymmetric", group_size=32).compress_layer(weight).weight
        assert float((other - weight).norm() / weight.norm()) > 1e-2


def test_more_bits_lose_less_of_a_trained_model(stories260k_source, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:8_000]
    found = []
    for bits in (None, 8, 4, 2):
        model = stories260k_source.load(torch.float32, CPU)
        if bits:
            RTN(bits=bits, group_size=None).apply(model, StageContext())
            assert len(packed_layers(model.module)) == len(model.targets())
        windows = torch.tensor(model.tokenizer(text)["input_ids"][: 4 * 256]).view(4, 256)
        found.append(perplexity(model.module, windows))
    assert found[1] == pytest.approx(found[0], rel=0.005)
    assert found[1] < found[2] < found[3]
