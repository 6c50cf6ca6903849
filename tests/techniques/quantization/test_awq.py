import pytest
import torch
from contexts import text_context
from family_shapes import random_model
from restatements import layer_inputs, perplexity

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.linear.mask import mark_zeros
from slimsweep.models.scale_folding import Place, query_key_rows
from slimsweep.models.storage import saved_model
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.rescaling import Inputs
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")
IDS = torch.arange(4, 44).view(2, 20)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def place(width: int) -> Place:
    """Of a norm that one layer reads."""
    return Place(0, "norm", torch.arange(width), ("layer",), torch.arange(width))


def rounded(weight: torch.Tensor, bits: int, size: int, shrink: float = 1.0) -> torch.Tensor:
    """Round to nearest with an integer zero-point, group by group in fp64; scales as bf16 holds them."""
    result = torch.empty_like(weight).double()
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            group = weight[row, start : start + size].double()
            low, high = min(float(group.min()), 0.0) * shrink, max(float(group.max()), 0.0) * shrink
            scale = float(torch.tensor((high - low) / (2**bits - 1)).bfloat16())
            zero = round(-low / scale)
            codes = ((group / scale).round() + zero).clamp(0, 2**bits - 1)
            result[row, start : start + size] = (codes - zero) * scale
    return result


def output_error(found: torch.Tensor, weight: torch.Tensor, inputs: torch.Tensor) -> float:
    return float((inputs.double() @ (found.double() - weight.double()).T).square().sum())


def test_a_salient_channel_by_hand():
    # Two bits, one group: levels 0, 1, 2, 3 turn the weights 3 and 0.4 into 3 and 0. The second input is 100 times the
    # first, so that costs (0.4 x 100)^2 = 1600. With alpha 7/20 the inputs' scales are 1 / 2.2387 and 2.2387, the
    # weights 1.3400 and 0.8955, and the levels' distance 1.34 / 3, in bf16 229 / 512: codes 3 and 2 become 3.00390 and
    # 0.39957, which costs 0.00390^2 + 0.043^2 = 0.00185.
    weight, inputs = torch.tensor([[3, 0.4]]), torch.tensor([[1.0, 0], [0, 100]])
    technique = AWQ(bits=2, group_size=2)
    found = technique.choose(place(2), weight, technique.statistic(inputs))
    assert found.channels.tolist() == pytest.approx([1 / 2.238721, 2.238721])
    assert found.notes["scaled"]["alpha"] == 0.35
    assert found.notes["scaled"]["error"] == pytest.approx(0.001845 / 1600, rel=0.01)


def test_equal_magnitudes_have_scales_of_exactly_1():
    inputs = random(40, 8).sign() * 0.3
    technique = AWQ(bits=3, group_size=4)
    found = technique.choose(place(8), random(5, 8), technique.statistic(inputs))
    assert torch.equal(found.channels, torch.ones(8))


def state(model) -> dict[str, torch.Tensor]:
    return dict(model.module.state_dict())


@pytest.mark.parametrize("fields", [{"steps": 1}, {"scale_search": False}])
@pytest.mark.parametrize("grid", ["symmetric", "asymmetric", "minimum"])
def test_a_power_of_0_alone_is_rtn(tiny_source, fields, grid):
    models = [tiny_source.load(torch.float32, CPU) for _ in range(2)]
    AWQ(bits=3, group_size=16, grid=grid, clip_search=False, **fields).apply(models[0], text_context(IDS))
    RTN(bits=3, group_size=16, grid=grid).apply(models[1], StageContext())
    found, expected = map(state, models)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_scales_equal_the_search_on_stored_inputs():
    inputs, weight = random(60, 12) * random(12, seed=1).exp() ** 2, random(7, 12, seed=2)
    technique = AWQ(bits=3, group_size=4)
    found = technique.choose(place(12), weight, technique.statistic(inputs[:25]) + technique.statistic(inputs[25:]))
    errors, scales = [], []
    for step in range(20):
        scale = inputs.abs().mean(dim=0) ** (step / 20)
        scales.append(scale / (scale.max() * scale.min()).sqrt())
        errors.append(output_error(rounded(weight * scales[-1], 3, 4) / scales[-1], weight, inputs))
    best = min(range(20), key=errors.__getitem__)
    assert best > 0
    assert torch.allclose(found.channels, scales[best], rtol=1e-4)
    assert found.notes["scaled"]["error"] == pytest.approx(errors[best] / errors[0], rel=1e-3)


def test_channels_shared_by_query_heads_have_the_mean_of_their_magnitudes():
    # Inputs 0 and 2 are channel 0, inputs 1 and 3 channel 1; sums 1 + 3 and 8 + 8, so 1 to 4.
    shared = Place(0, "v", torch.arange(2), ("o",), torch.tensor([0, 1, 0, 1]), is_norm=False)
    seen = torch.cat([torch.eye(4), torch.tensor([[1.0, 8, 3, 8]])])
    weight = torch.tensor([[1.0, 0.2, 1, 0.2]])
    found = AWQ(bits=2, group_size=4).choose(shared, weight, seen)
    alpha = found.notes["scaled"]["alpha"]
    assert alpha > 0
    assert found.channels.tolist() == pytest.approx([0.5**alpha, 2**alpha])


def test_inputs_that_are_never_seen_scale_nothing_and_a_dead_one_stays_finite():
    technique = AWQ(group_size=4)
    assert technique.choose(place(4), random(3, 4), torch.zeros(5, 4)) is None
    inputs = random(30, 4)
    inputs[:, 2] = 0
    assert technique.choose(place(4), random(3, 4), technique.statistic(inputs)).channels.isfinite().all()


@pytest.mark.parametrize("size", [4, None])
def test_clipping_equals_trying_every_group(size):
    weight, inputs = random(6, 8), random(50, 8, seed=1) @ random(8, 8, seed=2)
    weight[0, 1] = 9.0  # far from its neighbours
    technique = AWQ(bits=3, group_size=size)
    found = technique.best_shrink(weight, inputs.T @ inputs)
    size = size or 8
    for row in range(6):
        for group in range(8 // size):
            part = slice(group * size, (group + 1) * size)
            mine, seen = weight[row : row + 1, part], inputs[:, part]
            errors = [output_error(rounded(mine, 3, size, 1 - step / 20), mine, seen) for step in range(10)]
            assert float(found[row, group]) == pytest.approx(1 - min(range(10), key=errors.__getitem__) / 20)
    assert found.min() < 1


def test_clipping_looks_at_scaled_inputs():
    weight, inputs, scale = random(6, 8), random(50, 8, seed=1), random(8, seed=3).exp()
    technique = AWQ(bits=3, group_size=4)
    found = technique.compress_layer(weight, Inputs(technique.statistic(inputs), scale))
    expected = technique.compress_layer(weight, Inputs(technique.statistic(inputs / scale), None))
    assert torch.equal(found.dequantized(), expected.dequantized())
    assert not torch.equal(
        found.dequantized(), technique.compress_layer(weight, Inputs(technique.statistic(inputs), None)).dequantized()
    )


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox"])
def test_queries_and_keys_are_not_clipped(family, tmp_path):
    source = random_model(family, str(tmp_path))
    clipped, plain = source.load(torch.float32, CPU), source.load(torch.float32, CPU)
    protected = query_key_rows(plain, 0)
    common = {"bits": 3, "group_size": 16, "scale_search": False, "include": ["*.0.*"]}
    AWQ(**common).apply(clipped, text_context(IDS))
    AWQ(**common, clip_search=False).apply(plain, text_context(IDS))
    for name, layer in packed_layers(clipped.module).items():
        same = (layer.weight_scale == packed_layers(plain.module)[name].weight_scale).all(dim=1)
        rows = protected.get(name, torch.zeros(len(same), dtype=torch.bool))
        assert same[rows].all(), name
        assert rows.all() or not same[~rows].all(), name


def test_outputs_of_layers_are_nearer_than_those_of_rtn(tiny_source):
    dense = tiny_source.load(torch.float32, CPU)
    dense.module.model.layers[0].input_layernorm.weight[3] = 20.0
    names = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"]
    inputs = layer_inputs(dense.module, names[:1], IDS)[names[0]]
    wanted = {name: inputs @ weight_2d(dense.targets()[name]).T for name in names}
    errors = []
    for technique in (AWQ(bits=3, group_size=16, clip_search=False), RTN(bits=3, group_size=16)):
        model = dense.copy()
        report = technique.apply(model, text_context(IDS))
        seen = layer_inputs(model.module, names[:1], IDS)[names[0]]
        outputs = {name: seen @ model.module.get_submodule(name).dequantized().T for name in names}
        errors.append(sum(float((outputs[name] - wanted[name]).square().sum()) for name in names))
        if isinstance(technique, AWQ):
            assert report.notes["scaled"][names[0]]["alpha"] > 0
    assert errors[0] < 0.5 * errors[1]


def test_removed_weights_stay_zeros_on_every_grid(tiny_source):
    for grid in ("symmetric", "asymmetric", "minimum"):
        model = tiny_source.load(torch.float32, CPU)
        for layer in model.targets().values():
            weight_2d(layer)[:, ::3] = 0
            weight_2d(layer)[:, 1::3].add_(1)  # a group's minimum is not its zero
            mark_zeros(layer, weight_2d(layer))
        zeros = {name: weight_2d(layer) == 0 for name, layer in model.targets().items()}
        AWQ(bits=3, group_size=16, grid=grid).apply(model, text_context(IDS))
        packed = packed_layers(model.module)
        assert all(torch.all(layer.dequantized()[zeros[name]] == 0) for name, layer in packed.items()), grid


def test_the_report_says_where_scales_could_not_go(tmp_path):
    model = random_model("gpt2", str(tmp_path)).load(torch.float32, CPU)
    report = AWQ(group_size=16).apply(model, text_context(IDS))
    assert list(report.notes["not_scaled"]) == [f"transformer.h.{index}.mlp.c_proj" for index in (0, 1)]
    assert "no ReLU" in report.notes["not_scaled"]["transformer.h.0.mlp.c_proj"]
    assert set(report.notes["scaled"]) | set(report.notes["not_scaled"]) == set(model.targets())
    assert report.notes["bits_per_weight"] == pytest.approx(4 + (16 + 4) / 16 + 4 * 128 / 12288)  # and four shapes


def test_a_saved_model_loads_with_plain_transformers(tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    AWQ(group_size=16).apply(tiny, text_context(IDS))
    logits = tiny.module(input_ids=IDS).logits
    assert saved_model.save(tiny, tmp_path / "saved")
    assert torch.equal(saved_model.load(tmp_path / "saved")(input_ids=IDS).logits, logits)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.allclose(plain(input_ids=IDS).logits, logits, atol=1e-6)


def test_the_plan_needs_no_text_and_has_the_bytes_weights_give(tiny_source, tiny):
    AWQ(bits=3, group_size=16).apply(tiny, text_context(IDS))
    planned = tiny_source.skeleton().copy()
    AWQ(bits=3, group_size=16).plan(planned)
    found, plan = (
        {name: {key: value.nbytes for key, value in layer.storage.items()} for name, layer in packed.items()}
        for packed in (packed_layers(tiny.module), packed_layers(planned.module))
    )
    assert found == plan and found


def test_golden_output_of_version_2():
    assert AWQ.version == 2
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    inputs = torch.tensor(
        [[((5 * column + 2 * token) % 7 - 3) / 2 * 3**column for column in range(6)] for token in range(9)]
    )
    technique = AWQ(bits=3, group_size=3)
    seen = technique.statistic(inputs)
    scale = technique.choose(place(6), weight, seen)
    packed = technique.compress_layer(weight * scale.channels, Inputs(seen, scale.channels))
    assert (scale.notes["scaled"]["alpha"], packed.codes().tolist()) == (
        0.35,
        [[-4, 3, -4, 3, 1, -4], [-4, 3, -1, -4, 3, -2]],
    )


def test_bad_knobs_are_named_together():
    with pytest.raises(ValueError, match=r"bits=5.*group_size=0.*grid='round'.*steps=0"):
        AWQ(bits=5, group_size=0, grid="round", steps=0)


def test_groups_that_do_not_fit_are_listed(tiny):
    (fault,) = AWQ().faults(tiny)  # widths 32 and 48
    assert "group_size=64 does not divide" in fault
    assert "every width is 16: set group_size=16" in fault


def test_a_trained_model_is_nearer_than_with_rtn_at_3_bits(stories260k_source, shared):
    model = stories260k_source.load(torch.float32, CPU)
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:60_000]
    ids = torch.tensor(model.tokenizer(text)["input_ids"][: 32 * 256]).view(32, 256)
    AWQ(bits=3, group_size=None).apply(model, text_context(ids[:16]))
    rtn = stories260k_source.load(torch.float32, CPU)
    RTN(bits=3, group_size=None).apply(rtn, StageContext())
    assert perplexity(model.module, ids[16:]) < 0.95 * perplexity(rtn.module, ids[16:])


def test_a_block_of_smollm2_is_nearer_than_with_rtn(smollm2):
    source, errors = smollm2.load(torch.bfloat16, CPU), []
    ids = torch.tensor(source.tokenizer("Quantization keeps what matters. " * 40)["input_ids"][:256])[None]
    for technique in (None, AWQ, RTN):
        model = source.copy()
        if technique:
            technique(bits=3, group_size=64, include=["model.layers.0.self_attn.*"]).apply(model, text_context(ids))
        (hidden,) = layer_inputs(model.module, ["model.layers.1.self_attn.q_proj"], ids).values()
        errors.append(hidden.float())
    dense, awq, rtn = errors
    assert (awq - dense).norm() < 0.9 * (rtn - dense).norm()
