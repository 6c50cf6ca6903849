import pytest
import torch
from contexts import text_context
from family_shapes import ENCODERS, random_model
from restatements import layer_inputs, perplexity

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.linear.w8a8 import DynamicInt8Linear
from slimsweep.models.scale_folding import survey
from slimsweep.techniques.quantization.dynamic_int8 import DynamicInt8
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.quantization.smoothquant import SmoothQuant

CPU = torch.device("cpu")
IDS = torch.arange(4, 44).view(2, 20)


def place(model):
    return survey(model).places[0]


def test_scales_by_hand(tiny):
    # sqrt(16 / 4), sqrt(1 / 4); the third is never seen and the fourth never used, so they keep their scale.
    weight = torch.tensor([[4.0, -1, 7, 0], [-2, 4, 1, 0]])
    seen = torch.tensor([16.0, 1, 0, 5])
    found = SmoothQuant().choose(place(tiny), weight, seen)
    assert found.channels.tolist() == [2, 0.5, 1, 1]
    assert found.notes == {"smoothed": [0.5, 2]}
    assert SmoothQuant(alpha=1).choose(place(tiny), weight, seen).channels.tolist() == [16, 1, 1, 1]


def test_maxima_of_batches_are_joined_not_summed():
    batches = [torch.tensor([[1.0, -5], [2, 0]]), torch.tensor([[-3.0, 4], [0, 0]])]
    assert SmoothQuant.merge(*map(SmoothQuant().statistic, batches)).tolist() == [3, 5]


@pytest.mark.parametrize("tokens_at_once", [10, 4096])
def test_a_whole_model_equals_the_formula_step_by_step(tiny_source, monkeypatch, tokens_at_once):
    monkeypatch.setattr("slimsweep.models.batch_sizes.BATCH_TOKENS", tokens_at_once)
    dense, model = (tiny_source.load(torch.float32, CPU) for _ in range(2))
    for one in (dense, model):
        one.module.model.layers[0].input_layernorm.weight[5] = 30.0  # an outlier
    SmoothQuant(alpha=0.7).apply(model, text_context(IDS))
    prefix, groups = (
        "model.layers.0.",
        {
            "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        },
    )
    for norm, readers in groups.items():
        names = [prefix + reader for reader in readers]
        largest = layer_inputs(dense.module, names[:1], IDS)[names[0]].abs().amax(dim=0)
        weights = [weight_2d(dense.targets()[name]) for name in names]
        scale = largest**0.7 / torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0) ** 0.3
        old, new = (one.module.get_submodule(prefix + norm).weight for one in (dense, model))
        assert torch.allclose(new, old / scale, rtol=1e-5)
        for name, weight in zip(names, weights, strict=True):
            expected = DynamicInt8Linear.from_weight(weight * scale).dequantized()
            found = packed_layers(model.module)[name].dequantized()
            assert (found - expected).norm() < 1e-3 * expected.norm()
    assert len(packed_layers(model.module)) == len(dense.targets())


def test_an_outlier_channel_costs_less_than_without_smoothing(tiny_source):
    errors = {}
    for technique in (SmoothQuant(), DynamicInt8()):
        model = tiny_source.load(torch.float32, CPU)
        for block in model.blocks:
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight[5] = 200.0
        with torch.no_grad():
            before = model.module(input_ids=IDS).logits
            technique.apply(model, text_context(IDS))
            errors[type(technique).__name__] = float((model.module(input_ids=IDS).logits - before).norm())
    assert errors["SmoothQuant"] < 0.5 * errors["DynamicInt8"]


@pytest.mark.parametrize("family", ENCODERS)
def test_post_norm_families_are_refused_with_the_reason(family, tmp_path):
    (fault,) = SmoothQuant().faults(random_model(family, str(tmp_path)).skeleton())
    assert "no input of this model's targeted layers can be smoothed" in fault
    assert "use technique=dynamic_int8" in fault


def test_pre_norm_families_are_not(tmp_path):
    for family in ("gpt_neox", "gemma3_text"):
        assert SmoothQuant().faults(random_model(family, str(tmp_path)).skeleton()) == []


def test_a_layer_that_is_excluded_is_scaled_but_stays_dense(tiny_source):
    dense, model = (tiny_source.load(torch.float32, CPU) for _ in range(2))
    excluded = "model.layers.0.self_attn.k_proj"
    SmoothQuant(exclude=[excluded]).apply(model, text_context(IDS))
    assert excluded not in packed_layers(model.module)
    norms = [one.module.model.layers[0].input_layernorm.weight for one in (dense, model)]
    expected = weight_2d(dense.targets()[excluded]) * (norms[0] / norms[1])
    assert torch.allclose(weight_2d(model.targets()[excluded]), expected, rtol=1e-5)
    assert not torch.allclose(norms[0], norms[1], rtol=0.1)


def test_nothing_is_folded_where_a_reader_is_packed_and_no_target(tiny):
    RTN(include=["*.k_proj"], group_size=None).apply(tiny, StageContext())
    before = tiny.module.model.layers[0].input_layernorm.weight.clone()
    report = SmoothQuant(exclude=["*.k_proj"]).apply(tiny, text_context(IDS))
    assert torch.equal(tiny.module.model.layers[0].input_layernorm.weight, before)
    keys, reasons = "model.layers.0.self_attn.k_proj", report.notes["not_scaled"]
    assert reasons["model.layers.0.self_attn.q_proj"] == f"{keys} is stored as integer and not a target"
    assert reasons["model.layers.0.mlp.down_proj"] == "not among the activations this technique scales"
    assert "model.layers.0.mlp.up_proj" in report.notes["smoothed"]


def test_packed_layers_are_unpacked_and_packed_anew(tiny):
    RTN(bits=8, group_size=None).apply(tiny, StageContext())
    SmoothQuant().apply(tiny, text_context(IDS))
    assert {layer.kind for layer in packed_layers(tiny.module).values()} == {"dynamic_int8"}


def test_golden_output_of_version_1(tiny):
    assert SmoothQuant.version == 1
    weight, seen = torch.tensor([[0.5, -2.0], [1.0, 0.25]]), torch.tensor([9.0, 0.5])
    found = SmoothQuant(alpha=0.25).choose(place(tiny), weight, seen)
    assert torch.allclose(found.channels, torch.tensor([1.7320508, 0.5]), atol=1e-6)
    codes = SmoothQuant().compress_layer(weight * found.channels).weight_codes
    assert codes.tolist() == [[110, -127], [127, 9]]


@pytest.mark.parametrize("alpha", [-0.1, 1.5, True])
def test_bad_knobs_are_named_together(alpha):
    with pytest.raises(ValueError, match=r"inputs='no'.*alpha=.*\[0, 1\]"):
        SmoothQuant(alpha=alpha, inputs="no")


def test_zeros_stay_zeros(tiny):
    for layer in tiny.targets().values():
        weight_2d(layer)[:, ::3] = 0
    zeros = {name: weight_2d(layer) == 0 for name, layer in tiny.targets().items()}
    SmoothQuant().apply(tiny, text_context(IDS))
    assert all(torch.all(layer.dequantized()[zeros[name]] == 0) for name, layer in packed_layers(tiny.module).items())


def test_the_plan_needs_no_text_and_has_the_bytes_weights_give(tiny_source, tiny):
    SmoothQuant().apply(tiny, text_context(IDS))
    planned = tiny_source.skeleton().copy()
    SmoothQuant().plan(planned)
    found, plan = (
        {name: {key: value.nbytes for key, value in layer.storage.items()} for name, layer in packed.items()}
        for packed in (packed_layers(tiny.module), packed_layers(planned.module))
    )
    assert found == plan and found


def test_a_trained_model_loses_next_to_nothing(stories260k, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    ids = torch.tensor(stories260k.tokenizer(text)["input_ids"][: 16 * 256]).view(16, 256)
    before = perplexity(stories260k.module, ids[8:])
    SmoothQuant().apply(stories260k, text_context(ids[:8]))
    after = perplexity(stories260k.module, ids[8:])
    assert before != after
    assert after == pytest.approx(before, rel=0.02)
