import itertools
import math
from statistics import NormalDist

import bitsandbytes.functional as bnb
import pytest
import torch

import slimsweep
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.nf4 import NF4Linear, packed_codes
from slimsweep.models.storage.saved_model import save
from slimsweep.techniques.quantization.int8 import Int8
from slimsweep.techniques.quantization.nf4 import NF4

FP4 = [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]  # E2M1 over its largest value, by code; then the negative ones


def settings(block_size=64, quant_type="nf4", double_quantization=False, compute_dtype=None) -> dict:
    return locals()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(quant_type: str) -> torch.Tensor:
    """The tables restated: NF4 by quantiles of a normal distribution (arXiv:2305.14314, app. E), FP4 by its bits."""
    if quant_type == "fp4":
        return torch.tensor([*FP4, *(-value for value in FP4)])
    quantile, offset = NormalDist().inv_cdf, 0.9677083
    positive = [quantile(p) for p in torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1].tolist()]
    negative = [-quantile(p) for p in torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1].tolist()]
    found = torch.tensor(sorted([*positive, 0.0, *negative]))
    return found / found.abs().max()


def magnitudes(weight: torch.Tensor, block: int) -> torch.Tensor:
    """The largest magnitude of each weight's block, weight by weight."""
    flat = weight.flatten().tolist()
    found = [max(map(abs, flat[start : start + block])) for start in range(0, len(flat), block)]
    return torch.tensor(found).repeat_interleave(block)[: len(flat)].view(weight.shape)


def test_codes_and_bytes_by_hand():
    weight = torch.zeros(1, 32)
    weight[0, :6] = torch.tensor([2, -2, 0.16, -0.18, 0.66, 1.4])  # over 2: 1, -1, 0.08, -0.09, 0.33, 0.7
    layer = NF4Linear.from_weight(weight, settings(32))
    assert layer.weight_absmax.tolist() == [2]
    assert layer.codes().tolist()[:7] == [15, 0, 8, 6, 11, 14, 7]
    assert layer.weight_packed.tolist()[:4] == [0xF0, 0x86, 0xBE, 0x77]
    expected = [2, -2, 2 * 0.0795803, -2 * 0.0910500, 2 * 0.3379152, 2 * 0.7229568, 0]
    assert layer.dequantized()[0, :7].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_the_stored_table_is_the_published_one(quant_type):
    layer = NF4Linear.from_weight(randn(2, 32), settings(32, quant_type))
    assert torch.allclose(layer.weight_levels.data, levels(quant_type), atol=1e-6)


SHAPES = [(1, 1), (3, 10), (5, 7), (7, 26), (5, 96), (172, 64), (64, 172)]


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("block", [32, 64, 256, 2048])
def test_every_weight_gets_a_nearest_level_of_its_block_at_any_width(quant_type, block):
    for shape in SHAPES:
        weight = randn(*shape)
        found = NF4Linear.from_weight(weight, settings(block, quant_type)).dequantized()
        possible = magnitudes(weight, block)[:, :, None] * levels(quant_type)
        least = (possible - weight[:, :, None]).abs().amin(dim=2)
        # FP4's midpoints come from a table of 4 digits there, so a weight at a midpoint may go either way.
        assert torch.allclose((found - weight).abs(), least, atol=2e-4), (shape, block)
        assert torch.allclose((possible - found[:, :, None]).abs().amin(dim=2), torch.zeros(shape), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_levels_times_magnitudes_in_fp32_rounded_once(dtype):
    for shape, block in itertools.product(SHAPES, (64, 256, 4096)):
        weight = randn(*shape)
        layer = NF4Linear.from_weight(weight, settings(block))
        expected = layer.weight_levels[layer.codes().long()].view(shape) * magnitudes(weight, block)
        assert torch.equal(layer.values(dtype), expected.to(dtype)), (shape, block)


def test_doubly_quantized_magnitudes_are_what_bitsandbytes_reads_and_near_the_true_ones():
    weight = randn(48, 1024) * torch.linspace(0.5, 2, 48)[:, None]  # 768 blocks, three scales
    layer = NF4Linear.from_weight(weight, settings(64, double_quantization=True))
    packed, state = bnb.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(layer.dequantized(), bnb.dequantize_4bit(packed, state))
    true = weight.view(-1, 64).abs().amax(dim=1)
    assert layer.absmax_scale.shape == (3,) and float(layer.absmax_offset) == pytest.approx(float(true.mean()))
    # The largest step of the 8-bit table is 0.9 / 64 of the scale.
    bound = layer.absmax_scale.repeat_interleave(256) * 0.9 / 128
    assert bool(((layer.absmax() - true).abs() <= bound * 1.001).all())


def test_bits_count_packed_codes_and_both_magnitudes():
    """4.127 = 4 + 8/64 + 32/(64 x 256), 4.5 = 4 + 32/64; tables and offset add little to a layer of 576 x 1536."""
    for double, bits in ((True, 4 + 8 / 64 + 32 / (64 * 256)), (False, 4.5)):
        layer = NF4Linear.from_weight(randn(1536, 576), settings(64, double_quantization=double))
        parts = [layer.weight_packed, layer.weight_absmax, *([layer.absmax_scale] if double else [])]
        counted = 8 * sum(part.nbytes for part in parts) / (1536 * 576)
        assert counted == pytest.approx(bits, abs=1e-4) and round(counted, 3) == (4.127 if double else 4.5)
        stored = sum(parameter.nbytes for parameter in layer.parameters())
        assert counted < layer.bits_per_weight == 8 * stored / (1536 * 576) < 1.03 * counted


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 66), (130, 128)])
@pytest.mark.parametrize("block", [32, 4096])
def test_the_layout_is_what_is_stored(double, shape, block):
    given = settings(block, double_quantization=double)
    layer = NF4Linear.from_weight(randn(*shape), given)
    stored = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in layer.storage.items()}
    assert stored == NF4Linear.layout(shape, given)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_zeros_stay_zeros_even_in_whole_blocks(quant_type, double):
    weight = randn(9, 64)
    weight[::2] = 0
    weight[1, ::3] = 0
    found = NF4Linear.from_weight(weight, settings(64, quant_type, double)).dequantized()
    assert bool((found[weight == 0] == 0).all()) and bool(found.isfinite().all()) and int(found.count_nonzero()) > 100
    nothing = NF4Linear.from_weight(torch.zeros(3, 50), settings(64, quant_type, double))
    assert not bool(nothing.dequantized().any())


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_a_kernel_that_makes_minus_one_of_zeros_does_no_harm(quant_type, monkeypatch):
    def kernel(weight, **knobs):
        packed, state = quantize(weight, **knobs)
        return torch.full_like(packed, 0xBB if quant_type == "fp4" else 0), state  # the code of -1, everywhere

    quantize, weight = bnb.quantize_4bit, randn(3, 65)
    monkeypatch.setattr(bnb, "quantize_4bit", kernel)
    weight[:, ::2] = 0
    found = NF4Linear.from_weight(weight, settings(64, quant_type)).dequantized()
    assert torch.equal(found, torch.where(weight == 0, 0, -magnitudes(weight, 64)))


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_a_level_already_is_packed_again_unchanged(quant_type, double, dtype):
    layer = NF4Linear.from_weight(randn(33, 63), settings(64, quant_type, double))
    layer.dtype = dtype
    again = layer.requantize(layer.dequantized())
    again.dtype = dtype
    assert torch.equal(again.dequantized(), layer.dequantized())


def test_a_changed_weight_takes_the_nearest_levels_of_the_old_magnitudes_with_its_zeros():
    weight = randn(6, 64)
    layer = NF4Linear.from_weight(weight, settings(64))
    changed = torch.where(weight.abs() < 0.5, 0, weight * 1.3)  # larger than the block's largest
    found = layer.requantize(changed).dequantized()
    possible = magnitudes(weight, 64)[:, :, None] * levels("nf4")
    assert torch.allclose((found - changed).abs(), (possible - changed[:, :, None]).abs().amin(dim=2), atol=1e-5)
    assert torch.equal(found == 0, (changed == 0) | (found == 0)) and bool((found[changed == 0] == 0).all())
    assert torch.equal(layer.dequantized(), NF4Linear.from_weight(weight, settings(64)).dequantized())  # not written to


def test_a_block_without_magnitude_takes_any_weight_as_zero():
    assert not bool(
        NF4Linear.from_weight(torch.zeros(2, 32), settings(32)).requantize(torch.ones(2, 32)).dequantized().any()
    )


def test_a_transposed_view_is_packed_as_it_reads():
    weight = randn(24, 10)
    layer = NF4Linear.from_weight(weight.T, settings(32))  # GPT-2 stores [in out]
    assert torch.equal(layer.dequantized(), NF4Linear.from_weight(weight.T.contiguous(), settings(32)).dequantized())
    assert torch.equal(layer.requantize(layer.dequantized().T.contiguous().T).weight_packed, layer.weight_packed)


def test_packing_odd_counts_ends_with_an_empty_half():
    assert packed_codes(torch.tensor([1, 2, 15])).tolist() == [0x12, 0xF0]


def test_a_forward_equals_one_through_the_dequantised_weight():
    layer, inputs = NF4Linear.from_weight(randn(7, 33), settings(32)), randn(2, 5, 33, seed=1)
    layer.bias = torch.nn.Parameter(randn(7, seed=2))
    expected = torch.einsum("bti,oi->bto", inputs, layer.dequantized()) + layer.bias
    assert torch.allclose(layer(inputs), expected, atol=1e-5)


def test_the_product_is_computed_in_the_dtype_asked_for_and_returned_in_that_of_the_inputs():
    weight, inputs = randn(16, 64), randn(4, 64, seed=1)
    layer = NF4Linear.from_weight(weight, settings(64, compute_dtype="float32"))
    layer.dtype, layer.bias = torch.bfloat16, torch.nn.Parameter(randn(16, seed=2).bfloat16())
    found = layer(inputs.bfloat16())
    exact = inputs.bfloat16().float() @ layer.values(torch.float32).T + layer.bias.float()
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.bfloat16())
    layer.settings = settings(64)
    assert not torch.equal(layer(inputs.bfloat16()), exact.bfloat16())


def test_models_of_both_forms_of_bitsandbytes_load_in_a_new_process_with_equal_logits(tiny, tmp_path, new_processes):
    NF4(include="*self_attn*").apply(tiny, StageContext())
    Int8(include="*mlp*").apply(tiny, StageContext())
    ids = torch.arange(24)[None]
    expected = tiny.module(input_ids=ids).logits
    assert not save(tiny, tmp_path / "model")  # by its manifest only
    assert torch.equal(slimsweep.load(tmp_path / "model")(input_ids=ids).logits, expected)
    code = (
        "import sys, torch, slimsweep; model = slimsweep.load(sys.argv[1] + '/model');"
        "torch.save(model(input_ids=torch.arange(24)[None]).logits, sys.argv[1] + '/logits.pt')"
    )
    new_processes.run(code, tmp_path)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_what_bitsandbytes_gets_wrong_where_a_block_spans_rows_is_right_here():
    weight = randn(5, 96)
    layer = NF4Linear.from_weight(weight, settings(64))
    error = (layer.dequantized() - weight).abs() / magnitudes(weight, 64)
    assert float(error.max()) < (1 - 0.696) / 2 + 1e-3  # half the widest gap of the table
    assert math.isclose(float(layer.absmax()[1]), float(weight.flatten()[64:128].abs().max()))
