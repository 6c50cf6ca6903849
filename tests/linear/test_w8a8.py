import pytest
import torch
from family_shapes import random_model
from safetensors import safe_open

import slimsweep
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.w8a8 import DynamicInt8Linear, integer_product, widened
from slimsweep.models.storage import saved_model
from slimsweep.techniques.quantization.dynamic_int8 import DynamicInt8

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(weight: torch.Tensor, bias: torch.Tensor | None = None, dtype: torch.dtype = torch.float32):
    packed = DynamicInt8Linear.from_weight(weight)
    packed.dtype = dtype
    packed.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
    return packed


def restated(weight: torch.Tensor, inputs: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The same with rounded floats, row by row and token by token; what is rounded to a code is in fp32."""
    rows = []
    for row in weight:
        scale = (row.abs().max() * 2 / 255).bfloat16().double()
        rows.append((row.double() / scale).round().clamp(-128, 127) * scale)
    tokens = []
    for token in inputs.flatten(0, -2).float():
        scale = token.abs().max() / 127.5  # of the largest itself, which lies half way between two codes
        tokens.append((token / scale).round().clamp(-128, 127).double() * scale.double())
    outputs = torch.stack(tokens) @ torch.stack(rows).T
    return (outputs + (0 if bias is None else bias.double())).view(*inputs.shape[:-1], -1)


def test_one_product_by_hand():
    # Scale 1/64 for the row and for the token: codes (127, -64, 0) and (127, 32, -16).
    weight, inputs = torch.tensor([[127.5, -64, 0]]) / 64, torch.tensor([[127.5, 32, -16]]) / 64
    packed = layer(weight, torch.tensor([0.5]))
    assert packed.weight_codes.tolist() == [[127, -64, 0]]
    assert packed.dequantized().tolist() == [[127 / 64, -1, 0]]
    assert packed(inputs).tolist() == [[(127 * 127 - 64 * 32) / 4096 + 0.5]]


@pytest.mark.parametrize(("rows", "width"), [(7, 13), (16, 24), (1, 1)])
@pytest.mark.parametrize("shape", [(1,), (2, 9)])
def test_equals_a_product_of_rounded_floats(rows, width, shape):
    weight, inputs, bias = random(rows, width), random(*shape, width, seed=1), random(rows, seed=2)
    found = layer(weight, bias)(inputs)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), restated(weight, inputs, bias), rtol=1e-5, atol=1e-5)


def test_in_bf16_only_the_output_is_rounded():
    weight, inputs = random(8, 32), random(5, 32, seed=1).bfloat16()
    found = layer(weight, dtype=torch.bfloat16)(inputs)
    assert torch.equal(found, layer(weight)(inputs.float()).bfloat16())


def test_wide_sums_are_exact():
    weight, inputs = torch.full((1, 4096), 127, dtype=torch.int8), torch.full((1, 4096), 127, dtype=torch.int8)
    inputs[0, 0] = 126  # in fp32 the sum, above 2**24, would be even
    assert integer_product(inputs, weight).item() == 127 * 127 * 4096 - 127


@pytest.mark.parametrize(("tokens", "width", "rows"), [(1, 5, 3), (17, 8, 8), (40, 30, 9)])
def test_what_cuda_is_given_fits_its_kernel_and_changes_no_product(tokens, width, rows):
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (
        torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
        for shape in ((tokens, width), (rows, width))
    )
    wide_inputs, wide_weight = widened(inputs, weight)
    assert len(wide_inputs) > 16
    assert wide_inputs.shape[1] % 8 == len(wide_weight) % 8 == 0
    found = (wide_inputs.double() @ wide_weight.double().T)[:tokens, :rows]
    assert torch.equal(found, inputs.double() @ weight.double().T)


def test_a_token_does_not_see_its_neighbours():
    packed, inputs = layer(random(6, 10)), random(2, 4, 10, seed=1) * torch.tensor([1.0, 100, 0.01, 1])[:, None]
    assert torch.equal(packed(inputs)[1, 2], packed(inputs[1, 2][None])[0])


def test_a_token_of_zeros_gives_the_bias_and_one_that_is_not_finite_gives_no_number():
    packed, inputs = layer(random(6, 10), random(6, seed=3)), random(3, 10, seed=1)
    inputs[0], inputs[1, 4] = 0, torch.inf
    found = packed(inputs)
    assert torch.equal(found[0], packed.bias)
    assert not found[1].isfinite().any() and found[2].isfinite().all()


def test_gradients_pass_the_rounding():
    packed, inputs = layer(random(6, 10)), random(3, 10, seed=1).requires_grad_()
    outputs = packed(inputs)
    outputs.sum().backward()
    assert torch.allclose(inputs.grad, packed.dequantized().sum(dim=0).expand(3, -1))
    assert torch.allclose(outputs, packed(inputs.detach()), atol=1e-5)


def test_nearest_keeps_levels_and_zeros():
    packed = layer(random(6, 10))
    changed = packed.dequantized()
    changed[:, ::2] = 0
    again = packed.requantize(changed)
    assert torch.equal(again.dequantized(), changed)
    assert torch.equal(again.weight_scale, packed.weight_scale)


def test_a_row_of_zeros_stays_zero():
    assert layer(torch.zeros(2, 5)).dequantized().tolist() == [[0.0] * 5] * 2


def test_the_layout_is_what_is_stored():
    packed = layer(random(6, 10))
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in packed.storage.items()}
    assert found == DynamicInt8Linear.layout((6, 10), {})
    assert packed.bits_per_weight == 8 + 16 / 10


@pytest.fixture
def saved(tmp_path):
    """A random Qwen 2, which has biases, quantized and saved; its folder and its logits of some tokens."""
    model = random_model("qwen2", str(tmp_path)).load(torch.float32, CPU)
    DynamicInt8().apply(model, StageContext())
    assert saved_model.save(model, tmp_path / "saved")
    ids = torch.arange(4, 24)[None]
    return tmp_path / "saved", ids, model.module(input_ids=ids).logits


def test_the_file_has_the_names_other_readers_look_for(saved):
    with safe_open(saved[0] / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if "layers.0.mlp.up_proj" in name]  # noqa: SIM118
        assert sorted(names) == ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight_scale"]
        assert file.get_tensor(names[0]).dtype == torch.int8


def test_a_saved_model_gives_equal_logits_here_and_in_a_new_process(saved, tmp_path, new_processes):
    folder, ids, logits = saved
    assert torch.equal(slimsweep.load(folder)(input_ids=ids).logits, logits)
    script = (
        "import sys, torch, slimsweep; "
        "torch.save(slimsweep.load(sys.argv[1])(input_ids=torch.arange(4, 24)[None]).logits, sys.argv[2])"
    )
    new_processes.run(script, folder, tmp_path / "logits.pt")
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits)


def test_plain_transformers_computes_the_same(saved):
    from transformers import AutoModelForCausalLM

    folder, ids, logits = saved
    found = AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits.detach()
    dense = random_model("qwen2", str(folder.parent)).load(torch.float32, CPU).module(input_ids=ids).logits
    largest = logits.abs().max()
    assert (found - logits).abs().max() < 1e-5 * largest
    assert (dense - logits).abs().max() > 1e-3 * largest
