import pytest
import torch
from contexts import text_context
from family_shapes import random_model

from slimsweep.errors import ModelError
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.linear.w8a8 import DynamicInt8Linear
from slimsweep.techniques.quantization.rescaling import Scale
from slimsweep.techniques.quantization.smoothquant import SmoothQuant

CPU = torch.device("cpu")
IDS = torch.arange(4, 44).view(2, 20)


class Doubling(SmoothQuant):
    """Scales every place by powers of two, which no rounding sees."""

    def rescales(self, place):
        return True

    def choose(self, place, weight, seen, removed=None):
        return Scale(torch.full((len(place.makes),), 2.0), {"doubled": place.smooth_layer})


class Unscaled(SmoothQuant):
    def choose(self, place, weight, seen, removed=None):
        return None


def state(model) -> dict[str, torch.Tensor]:
    return dict(model.module.state_dict())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_scale_no_rounding_sees_changes_nothing(family, tmp_path):
    # Norms halve, values and neurons keep their rows (doubled columns, halved rows), the last readers double.
    source = random_model(family, str(tmp_path))
    plain, doubled = source.load(torch.float32, CPU), source.load(torch.float32, CPU)
    Unscaled().apply(plain, text_context(IDS))
    report = Doubling().apply(doubled, text_context(IDS))
    assert torch.equal(plain.module(input_ids=IDS).logits, doubled.module(input_ids=IDS).logits)
    differing = [name for name, tensor in state(plain).items() if not torch.equal(tensor, state(doubled)[name])]
    assert any("norm" in name or "ln_" in name for name in differing)
    assert set(report.notes["doubled"]) | set(report.notes.get("not_scaled", {})) == set(doubled.targets())


def test_errors_are_of_the_scaled_weight(tiny):
    report = Doubling().apply(tiny, text_context(IDS))
    assert report.notes["packing_error"]["largest"] < 0.02  # of the unscaled weight it would be about 1


def test_blocks_after_the_last_target_are_left_alone(tiny):
    before = {name: tensor.clone() for name, tensor in state(tiny).items() if ".layers.1." in name}
    SmoothQuant(include=["*.layers.0.*"]).apply(tiny, text_context(IDS))
    assert all(torch.equal(state(tiny)[name], tensor) for name, tensor in before.items())
    assert {name.split(".")[2] for name in packed_layers(tiny.module)} == {"0"}


def test_bias_and_dtype_are_taken_over(tmp_path):
    model = random_model("qwen2", str(tmp_path)).load(torch.bfloat16, CPU)
    model.module.model.layers[0].self_attn.v_proj.bias.data.fill_(3)
    Doubling().apply(model, text_context(IDS))
    layer = model.module.model.layers[0].self_attn.v_proj
    assert isinstance(layer, DynamicInt8Linear)
    assert layer.dtype == torch.bfloat16
    assert torch.all(layer.bias == 1.5)  # values are divided by two, their bias with them


@pytest.mark.parametrize("inputs", ["dense", "compressed"])
def test_later_blocks_see_what_was_asked_for(tiny_source, inputs, monkeypatch):
    seen = []

    class Crushing(Unscaled):
        def statistic(self, given):
            seen.append(given.clone())
            return super().statistic(given)

        def compress_layer(self, weight, prepared, generator=None, removed=None):
            return DynamicInt8Linear.from_weight(torch.zeros_like(weight))

    model = tiny_source.load(torch.float32, CPU)
    Crushing(inputs=inputs).apply(model, text_context(IDS))
    plain = tiny_source.load(torch.float32, CPU).module
    second = plain.model.layers[1]
    if inputs == "compressed":  # a crushed block adds nothing to the residual
        expected = second.input_layernorm(plain.model.embed_tokens(IDS))
    else:
        rotary = plain.model.rotary_emb(plain.model.embed_tokens(IDS), torch.arange(20)[None])
        first = plain.model.layers[0](plain.model.embed_tokens(IDS), position_embeddings=rotary)
        expected = second.input_layernorm(first)
    assert torch.allclose(seen[4].view_as(expected), expected, atol=1e-5)  # a block has four inputs


def test_inputs_that_are_not_finite_are_refused_by_name(tiny):
    weight_2d(tiny.targets()["model.layers.0.mlp.up_proj"])[0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj are not finite"):
        SmoothQuant().apply(tiny, text_context(IDS))
