import bitsandbytes
import pytest
import torch
from bitsandbytes import functional as bnb

from slimsweep.linear.llm_int8 import LLMInt8Linear, rounded


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outlying(tokens: int, width: int) -> torch.Tensor:
    """Inputs of which two channels hold outliers, one of them in a single token."""
    inputs = randn(tokens, width, seed=1).clamp(-4, 4)
    inputs[:, 3] *= 30
    inputs[2, 5] = -7
    return inputs


def restated(inputs: torch.Tensor, weight: torch.Tensor, threshold: float) -> torch.Tensor:
    """LLM.int8 in fp64, number by number: a product in 8 bits over channels without outliers, the others apart."""
    rows = [[float(value) for value in row] for row in inputs]
    columns = range(len(rows[0]))
    apart = {j for j in columns if threshold and any(abs(row[j]) >= threshold for row in rows)}
    outputs = []
    for row in rows:
        usual = max(abs(value) for value in row if not threshold or abs(value) < threshold)
        found = []
        for weights in weight.tolist():
            largest = max(map(abs, weights))
            codes = [round(127 * value / largest) for value in weights]
            product = sum(round(127 * row[j] / usual) * codes[j] for j in columns if j not in apart)
            beside = sum(row[j] * codes[j] * largest / 127 for j in apart)
            found.append(product * usual * largest / 127**2 + beside)
        outputs.append(found)
    return torch.tensor(outputs, dtype=torch.float64)


def test_codes_by_hand():
    layer = LLMInt8Linear.from_weight(torch.tensor([[1.27, -0.64, 0.0], [0.0, 0.0, 0.0]]), {"threshold": 6.0})
    assert layer.weight_codes.tolist() == [[127, -64, 0], [0, 0, 0]]
    assert layer.weight_absmax.tolist() == pytest.approx([1.27, 0])
    assert layer.dequantized()[0].tolist() == pytest.approx([1.27, -0.64, 0]) and not bool(layer.dequantized()[1].any())


def test_ties_go_to_the_even_code():
    assert rounded(torch.tensor([[254.0, 1.0, 3.0, -5.0]]), torch.tensor([254.0])).tolist() == [[127, 0, 2, -2]]


def test_a_row_without_magnitude_takes_any_weight_as_zero():
    assert rounded(torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([0.0])).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("threshold", [0.0, 6.0])
@pytest.mark.parametrize("shape", [(5, 7), (6, 16), (13, 33)])
def test_a_forward_is_vectorwise_int8_with_outlier_channels_apart(threshold, shape):
    weight, inputs = randn(*shape), outlying(4, shape[1])
    found = LLMInt8Linear.from_weight(weight, {"threshold": threshold})(inputs)
    expected = restated(inputs, weight, threshold)
    assert torch.allclose(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.double(), restated(inputs, weight, 6.0 - threshold), atol=1e-2)


def test_an_input_at_the_threshold_is_an_outlier_of_every_token():
    inputs = torch.tensor([[6.0, 1.0], [0.013, 1.0]])
    layer = LLMInt8Linear.from_weight(torch.eye(2), {"threshold": 6.0})
    assert torch.equal(layer(inputs)[:, 0], inputs[:, 0])  # 0.013 would be 2/127 in 8 bits
    assert float(layer(inputs[1:])[0, 0]) == pytest.approx(2 / 127)  # alone, it has no outlier beside it
    above = LLMInt8Linear.from_weight(torch.eye(2), {"threshold": 6.1})
    assert float(above(inputs)[1, 0]) == pytest.approx(2 / 127)


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_what_fp16_holds_gives_what_bitsandbytes_gives(threshold):
    weight, inputs = randn(32, 64).half(), outlying(9, 64).half()
    codes, absmax, _ = bnb.int8_vectorwise_quant(weight)
    layer = LLMInt8Linear.from_weight(weight.float(), {"threshold": threshold})
    assert torch.equal(layer.weight_codes, codes) and torch.equal(layer.weight_absmax, absmax)
    state = bitsandbytes.MatmulLtState(CB=codes, SCB=absmax)
    state.threshold, state.has_fp16_weights, state.is_training = threshold, False, False
    theirs, layer.dtype = bitsandbytes.matmul(inputs, codes, state=state), torch.float16
    assert torch.allclose(layer(inputs).float(), theirs.float(), rtol=2**-9, atol=2**-6)


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_inputs_and_weights_beyond_fp16_stay_finite(threshold):
    weight, inputs = randn(4, 8).bfloat16() * 2.0**20, outlying(3, 8).bfloat16()
    inputs[1, 3] = 2.0**18
    layer = LLMInt8Linear.from_weight(weight.float(), {"threshold": threshold})
    layer.dtype = torch.bfloat16
    found, expected = layer(inputs).float(), restated(inputs, weight, threshold).float()
    assert bool(found.isfinite().all()) and torch.allclose(
        found, expected, rtol=0.02, atol=float(expected.abs().max()) / 256
    )
    small = LLMInt8Linear.from_weight(weight.float() * 2.0**-60, {"threshold": threshold})
    assert torch.equal(small.weight_codes, layer.weight_codes)


def test_a_transposed_view_is_packed_as_it_reads():
    weight = randn(16, 5)
    layer = LLMInt8Linear.from_weight(weight.T, {"threshold": 6.0})
    inputs = outlying(4, 16)
    assert torch.equal(layer(inputs), LLMInt8Linear.from_weight(weight.T.contiguous(), {"threshold": 6.0})(inputs))


def test_bias_leading_axes_and_dtype_of_the_inputs_are_kept():
    layer = LLMInt8Linear.from_weight(randn(5, 16), {"threshold": 6.0})
    inputs = outlying(6, 16)
    plain = layer(inputs)
    layer.bias = torch.nn.Parameter(randn(5, seed=3))
    assert torch.allclose(layer(inputs.view(2, 3, 16)), (plain + layer.bias).view(2, 3, 5), atol=1e-5)
    assert layer(inputs.bfloat16()).dtype == torch.bfloat16


def test_a_token_of_zeros_gives_zeros():
    layer = LLMInt8Linear.from_weight(randn(5, 16), {"threshold": 6.0})
    inputs = outlying(3, 16)
    inputs[0] = 0
    assert not bool(layer(inputs)[0].any())


def test_zeros_stay_zeros():
    weight = randn(7, 33)
    weight[:, ::3] = 0
    layer = LLMInt8Linear.from_weight(weight, {"threshold": 6.0})
    assert bool((layer.dequantized()[weight == 0] == 0).all())
    changed = torch.where(weight.abs() < 1, 0, weight * 2)
    again = layer.requantize(changed)
    assert bool((again.dequantized()[changed == 0] == 0).all())
    assert torch.equal(again.weight_absmax, layer.weight_absmax)
    beyond = changed.abs() > weight.abs().amax(dim=1, keepdim=True)
    assert bool((again.weight_codes[beyond].abs() == 127).all()) and bool(beyond.any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_a_level_already_is_packed_again_unchanged(dtype):
    layer = LLMInt8Linear.from_weight(torch.linspace(-1, 1, 255)[None] * 0.37, {"threshold": 6.0})
    layer.dtype = dtype
    assert torch.equal(layer.requantize(layer.dequantized()).weight_codes, layer.weight_codes)
    assert layer.weight_codes[0].tolist() == list(range(-127, 128))


def test_the_layout_is_what_is_stored_and_its_bits_are_8_and_one_scale_a_row():
    layer = LLMInt8Linear.from_weight(randn(7, 33), {"threshold": 6.0})
    stored = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in layer.storage.items()}
    assert stored == LLMInt8Linear.layout((7, 33), {"threshold": 6.0})
    assert layer.bits_per_weight == pytest.approx(8 + 32 / 33) and layer.code_bits == 8
