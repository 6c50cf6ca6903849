import pytest
import torch
from contexts import text_context

import slimsweep
from slimsweep.linear.base import packed_layers
from slimsweep.linear.codebook import CodebookLinear, with_zero
from slimsweep.models.storage import saved_model
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.squeezellm import SqueezeLLM

BITS = (2, 3, 4, 8)
NAMES = {"codes", "table"}
OUTLIERS = {"outlier_values", "outlier_columns", "outlier_starts"}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some(shape: tuple[int, int], fraction: float) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < fraction


def stored(layer: CodebookLinear) -> int:
    return sum(tensor.nbytes for tensor in layer.storage.values())


def unpacked(words: list[int], bits: int, count: int) -> list[int]:
    """Codes of one row, lowest bits of the first word first."""
    stream = sum((word & 0xFFFFFFFF) << (32 * position) for position, word in enumerate(words))
    return [(stream >> (bits * index)) & (2**bits - 1) for index in range(count)]


def test_a_row_by_hand():
    table = torch.tensor([[4.0, -1.0, 0.0, 1.0]])
    layer = CodebookLinear.from_weight(
        table, torch.tensor([[-7.0, 0.4, 2.5, 2.6, 0.5, 9.0]]), torch.tensor([[False] * 5 + [True]])
    )
    assert layer.table.tolist() == [[-1, 0, 1, 4]]
    assert layer.weight.tolist() == [[-1, 0, 1, 4, 0, 9]]  # halfway goes to the lower level
    assert unpacked(layer.codes.tolist()[0], 2, 6) == [0, 1, 2, 3, 1, 0]
    assert (layer.outlier_values.tolist(), layer.outlier_columns.tolist()) == ([9], [5])
    assert layer.outlier_starts.tolist() == [0, 1]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(5, 64), (33, 172), (7, 43), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_weight_is_its_rows_nearest_level_or_kept_apart(bits, shape, dtype):
    weight, table, outliers = normal(*shape), normal(shape[0], 2**bits, seed=1), some(shape, 0.1)
    layer = CodebookLinear.from_weight(table, weight, outliers)
    layer.dtype = dtype
    levels = table.bfloat16().float()
    nearest = (weight[:, :, None] - levels[:, None]).abs().min(dim=2).values
    found = layer.dequantized()
    assert found.dtype == dtype
    expected = torch.where(outliers, weight.bfloat16().float(), found.float())
    assert torch.equal(found, expected.to(dtype))
    layer.dtype = torch.float32
    exact = layer.dequantized()
    assert torch.equal(found, exact.to(dtype))
    assert torch.allclose((exact - weight).abs()[~outliers], nearest[~outliers])
    assert bool(((exact[:, :, None] == levels[:, None]).any(dim=2) | outliers).all())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("fraction", [0, 0.1])
@pytest.mark.parametrize("shape", [(33, 172), (7, 43)])
def test_bytes_by_formula_and_by_layout(bits, shape, fraction):
    rows, columns = shape
    outliers = some(shape, fraction)
    layer = CodebookLinear.from_weight(normal(rows, 2**bits), normal(*shape), outliers)
    count = int(outliers.sum())
    words = -(-columns * bits // 32)
    expected = 4 * rows * words + 2 * rows * 2**bits
    expected += (2 + 2) * count + 4 * (rows + 1) if count else 0
    assert stored(layer) == expected
    assert layer.bits_per_weight == 8 * expected / (rows * columns)
    assert layer.code_bits == bits
    assert layer.settings == {"bits": bits, "outliers": count}
    assert layer.storage.keys() == (NAMES | OUTLIERS if count else NAMES)
    found = {name: (tuple(part.shape), part.dtype) for name, part in layer.storage.items()}
    assert found == CodebookLinear.layout(shape, layer.settings)


@pytest.mark.parametrize(("columns", "dtype"), [(32_768, torch.int16), (32_769, torch.int32)])
def test_columns_of_outliers_take_16_bits_where_they_fit(columns, dtype):
    weight = torch.zeros(1, columns)
    weight[0, -1] = 5
    layer = CodebookLinear.from_weight(torch.zeros(1, 4), weight, weight != 0)
    assert layer.outlier_columns.dtype == dtype
    assert torch.equal(layer.weight, weight)


def test_a_forward_is_that_of_the_dequantised_weight():
    layer = CodebookLinear.from_weight(normal(5, 8), normal(5, 12), some((5, 12), 0.2))
    layer.bias = torch.nn.Parameter(normal(5), requires_grad=False)
    inputs = normal(2, 3, 12, seed=3)
    assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, layer.weight, layer.bias))


def test_packing_its_own_weights_again_changes_nothing():
    layer = CodebookLinear.from_weight(normal(9, 8), normal(9, 43), some((9, 43), 0.1))
    again = layer.requantize(layer.weight)
    assert all(torch.equal(tensor, again.storage[name]) for name, tensor in layer.storage.items())


def test_zeros_are_zeros_and_what_was_a_level_stays_while_a_level_is_free():
    layer = CodebookLinear.from_weight(normal(9, 8), normal(9, 43), some((9, 43), 0.1))
    wanted = Magnitude(ratio=0.7).compress_layer(layer.weight).weight  # the levels nearest to 0 lose all their weights
    assert torch.equal(layer.requantize(wanted).weight, wanted)


def test_the_level_given_up_for_zero_is_the_one_that_costs_least_by_hand():
    table = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    nowhere = torch.zeros(1, 6, dtype=torch.bool)
    # 1 has 2 weights, 1 from 0 or from 2: costs 2. 2 has one, 1 from 1: costs 1. 4: one, 2 from 2: 4. 8: one, 16.
    weight = torch.tensor([[1.0, 1.0, 2.0, 4.0, 8.0, 0.0]])
    assert with_zero(table, weight, nowhere).tolist() == [[0, 1, 4, 8]]
    unused = torch.tensor([[1.0, 1.0, 2.0, 4.0, 4.0, 0.0]])
    assert with_zero(table, unused, nowhere).tolist() == [[0, 1, 2, 4]]
    assert with_zero(table, weight.clamp(min=1), nowhere).tolist() == table.tolist()  # no zeros, no change
    kept = CodebookLinear.from_weight(table, weight, nowhere).requantize(weight)
    assert kept.weight.tolist() == [[1, 1, 1, 4, 8, 0]]


def test_an_outlier_that_becomes_zero_is_an_exact_zero_and_needs_no_level():
    layer = CodebookLinear.from_weight(
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 9.0]]), torch.tensor([[False, True]])
    )
    again = layer.requantize(torch.tensor([[1.0, 0.0]]))
    assert again.weight.tolist() == [[1, 0]]
    assert again.table.tolist() == [[1, 2, 3, 4]]


def test_repeated_levels_are_one_level():
    layer = CodebookLinear.from_weight(torch.tensor([[1.0, 1.0, 3.0, 3.0]]), torch.tensor([[0.0, 1.9, 2.1, 9.0]]))
    assert layer.weight.tolist() == [[1, 1, 3, 3]]


def test_a_saved_model_gives_equal_logits_here_and_in_a_new_process(tiny, tmp_path, new_processes):
    token_ids = torch.randint(1, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    SqueezeLLM(bits=3, outlier_fraction=0.02).apply(tiny, text_context(token_ids))
    assert {layer.kind for layer in packed_layers(tiny.module).values()} == {"table"}
    folder = tmp_path / "saved"
    assert not saved_model.save(tiny, folder)
    expected = tiny.module(input_ids=token_ids).logits
    assert torch.equal(slimsweep.load(folder)(input_ids=token_ids).logits, expected)
    torch.save((token_ids, expected), tmp_path / "expected.pt")
    script = (
        "import sys, torch, slimsweep\n"
        "token_ids, expected = torch.load(sys.argv[2])\n"
        "assert torch.equal(slimsweep.load(sys.argv[1])(input_ids=token_ids).logits, expected)\n"
    )
    new_processes.run(script, folder, tmp_path / "expected.pt")
