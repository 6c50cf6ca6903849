import copy
import itertools
import json

import pytest
import torch
import transformers
from contexts import text_context
from restatements import perplexity

import slimsweep
from slimsweep.blockwise.fisher import fisher_diagonal
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.quantization_config import quantization_config
from slimsweep.numerics.bit_allocation import allocate
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.quantization.selective import Selective

CPU = torch.device("cpu")
WEIGHTS = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)  # of the targeted layers of the tiny model


def ids(sequences: int = 3, tokens: int = 12) -> torch.Tensor:
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def test_fisher_sensitivity_is_half_the_information_times_the_squared_change(tiny):
    dense = copy.deepcopy(tiny)
    report = Selective(average_bits=3, choices=[2, 4], group_size=None).apply(tiny, text_context(ids()))
    fisher = fisher_diagonal(dense, list(dense.targets()), text_batch(ids()))
    for name, layer in dense.targets().items():
        for bits in (2, 4):
            change = RTN(bits=bits, group_size=None).compress_layer(weight_2d(layer)).weight - weight_2d(layer)
            expected = 0.5 * float((fisher[name] * change**2).sum())
            assert report.notes["sensitivity"][name][str(bits)] == pytest.approx(expected, rel=1e-3)


def test_measured_sensitivity_is_the_rise_of_the_loss_with_that_layer_rounded(tiny):
    dense = copy.deepcopy(tiny)
    report = Selective(average_bits=3, choices=[2, 4], measure="loss", group_size=None).apply(tiny, text_context(ids()))

    def loss(model) -> float:
        logits = model.module(input_ids=ids()).logits[:, :-1]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids()[:, 1:].flatten()))

    before = loss(dense)
    for name, bits in itertools.product(("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"), (2, 4)):
        one = copy.deepcopy(dense)
        RTN(bits=bits, include=[name], group_size=None).apply(one, StageContext())
        assert report.notes["sensitivity"][name][str(bits)] == pytest.approx(loss(one) - before, rel=0.02, abs=2e-6)


@pytest.mark.parametrize("average", [2, 3, 3.5, 4, 6, 40])
def test_each_layer_is_rounded_to_its_own_bits_within_the_budget(tiny, average):
    dense = {name: weight_2d(layer).clone() for name, layer in tiny.targets().items()}
    report = Selective(average_bits=average, group_size=16).apply(tiny, text_context(ids()))
    chosen = report.notes["bits"]
    assert list(chosen) == list(report.notes["sensitivity"]) == list(dense)
    coded = stored = 0
    for name, bits in chosen.items():
        layer, size = tiny.targets()[name], dense[name].numel()
        if bits == 16:
            assert torch.equal(weight_2d(layer), dense[name]) and name not in packed_layers(tiny.module)
        else:
            assert torch.equal(weight_2d(layer), RTN(bits=bits, group_size=16).compress_layer(dense[name]).weight)
        coded += size * (32 if bits == 16 else bits)  # the tiny model is in fp32
        stored += sum(t.nbytes for t in layer.parameters())
    assert report.notes["average_bits"] == coded / WEIGHTS <= average
    assert report.notes["bits_per_weight"] == pytest.approx(8 * stored / WEIGHTS)
    assert report.notes["bits_per_weight"] == pytest.approx(Size().measure(tiny, None).values["bits_per_weight"])
    if average == 40:
        assert set(chosen.values()) == {16}
    if average == 2:
        assert set(chosen.values()) == {2}


def test_the_record_is_short_and_plain(tiny):
    notes = Selective(average_bits=3, group_size=None).apply(tiny, text_context(ids())).notes
    assert json.loads(json.dumps(notes)) == notes
    values = [value for table in notes["sensitivity"].values() for value in table.values()]
    assert all(value == float(f"{value:.4g}") for value in values) and any(values)


def test_the_layers_that_stay_whole_are_those_that_mind_most(tiny):
    report = Selective(
        average_bits=18, choices=[4, 16], include=["*.mlp.up_proj", "*.mlp.gate_proj"], group_size=None
    ).apply(tiny, text_context(ids()))
    chosen, sensitivity = report.notes["bits"], report.notes["sensitivity"]
    whole = {name for name, bits in chosen.items() if bits == 16}
    assert len(whole) == 2  # of four of equal size: 4, 4, 32 and 32 are 18 on average
    assert whole == set(sorted(sensitivity, key=lambda name: sensitivity[name]["4"])[2:])


def test_layers_left_packed_keep_their_codes_and_count_with_them(tiny):
    RTN(bits=3, group_size=8).apply(tiny, StageContext())
    before = packed_layers(tiny.module)
    report = Selective(average_bits=3, choices=[2, 16], group_size=None).apply(tiny, text_context(ids()))
    assert set(report.notes["bits"].values()) == {16} and packed_layers(tiny.module) == before
    assert report.notes["average_bits"] == 3


@pytest.mark.parametrize("grid", ["asymmetric", "minimum"])
def test_zeros_stay_zeros(tiny, grid):
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    zeros = {name: weight_2d(layer) == 0 for name, layer in tiny.targets().items()}
    report = Selective(average_bits=3, grid=grid, group_size=None).apply(tiny, text_context(ids()))
    for layer in report.layers:
        found = weight_2d(tiny.targets()[layer.name])
        assert bool((found[zeros[layer.name]] == 0).all())
        assert layer.zeros == int((found == 0).sum())


@pytest.mark.parametrize("average", [2, 3, 3.5, 4, 20])
def test_the_plan_on_shapes_meets_the_same_budget_and_says_what_it_is(tiny_source, average):
    skeleton = tiny_source.skeleton().copy()
    technique = Selective(average_bits=average, group_size=16)
    assert technique.faults(skeleton) == []
    report = technique.plan(skeleton)
    assert average - 1 < report.notes["average_bits"] <= average
    assert "without sensitivities" in report.notes["plan"]
    assert report.notes["bits_per_weight"] == Size().measure(skeleton, None).values["bits_per_weight"]
    assert list(report.notes["bits"]) == [layer.name for layer in report.layers] == list(skeleton.targets())


def test_planned_bytes_are_those_of_real_weights_where_one_choice_is_left(tiny, tiny_source):
    technique, skeleton = Selective(average_bits=3, choices=[3], group_size=16), tiny_source.skeleton().copy()
    technique.plan(skeleton)
    technique.apply(tiny, text_context(ids()))
    RTN(bits=3, group_size=16).apply(other := tiny_source.load(torch.float32, CPU), StageContext())
    sizes = [Size().measure(model, None).values for model in (skeleton, tiny, other)]
    assert sizes[0]["weight_bytes"] == sizes[1]["weight_bytes"] == sizes[2]["weight_bytes"]
    tensors = other.module.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in tiny.module.state_dict().items())


def test_mixed_bits_load_with_plain_transformers_to_the_same_logits(tiny, tmp_path):
    report = Selective(average_bits=9, choices=[2, 3, 4, 8, 16], group_size=16).apply(tiny, text_context(ids()))
    assert len(set(report.notes["bits"].values())) >= 3
    config = quantization_config(tiny)
    stored = {group["weights"]["num_bits"] for group in config["config_groups"].values()}
    assert stored == set(report.notes["bits"].values()) - {16}
    assert saved_model.save(tiny, tmp_path / "saved")
    expected = tiny.module(input_ids=ids()).logits
    assert torch.equal(slimsweep.load(tmp_path / "saved")(input_ids=ids()).logits, expected)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.equal(plain(input_ids=ids()).logits, expected)


def test_golden_output_of_version_2():
    assert Selective.version == 2
    sizes, bits = [64, 96, 32, 320], [[2, 3, 4, 8, 16]] * 4
    losses = [[((7 * choice + 5 * layer) % 11 + 1) / 4**choice for choice in range(5)] for layer in range(4)]
    golden = {2: [0, 0, 0, 0], 3: [0, 1, 2, 1], 4: [2, 1, 4, 1], 6: [4, 3, 3, 1]}
    assert {average: allocate(sizes, bits, losses, average) for average in golden} == golden


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"average_bits": 0}, r"average_bits=0: give a number above 0"),
        ({"average_bits": 2.5, "choices": [3, 4]}, r"average_bits=2.5 .* choices=\[3, 4\]: .* at least 3\. Give"),
        (
            {"average_bits": 4, "choices": [16]},
            r"choices=\[16\]: give some of \[2, 3, 4, 8, 16\], at least one below 16",
        ),
        ({"average_bits": 4, "choices": [4, 5]}, r"choices=\[4, 5\]: give some of"),
        ({"average_bits": 4, "choices": []}, r"choices=\[\]: give some of"),
        (
            {"average_bits": 4, "measure": "hessian", "grid": "nf4", "group_size": 0},
            r"measure='hessian': give fisher or loss; group_size=0: .*; grid='nf4'",
        ),
    ],
)
def test_bad_knobs_are_named_together(knobs, message):
    with pytest.raises(ValueError, match=message):
        Selective(**knobs)


def test_equal_knobs_are_one_experiment():
    assert Selective(average_bits=4, choices=[8, 2, 2], group_size=None) == Selective(
        average_bits=4.0, choices=(2, 8), group_size=None
    )


def test_only_gradients_need_all_weights_in_one_place():
    assert Selective(average_bits=4, group_size=None).requirements.gradients
    assert not Selective(average_bits=4, measure="loss", group_size=None).requirements.gradients


def test_groups_that_do_not_fit_are_listed(tiny_source):
    (fault,) = Selective(average_bits=4, group_size=32).faults(tiny_source.skeleton())
    assert "model.layers.0-1.mlp.down_proj (48)" in fault


@torch.no_grad()
def perplexity_after(technique, source, shared) -> float:
    """Of a trained model on 16 windows of stories, after 8 others have calibrated it."""
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:60_000]
    model = source.load(torch.float32, CPU)
    windows = torch.tensor(model.tokenizer(text)["input_ids"][: 24 * 256]).view(24, 256)
    technique.apply(model, text_context(windows[:8]))
    return perplexity(model.module, windows[8:])


def test_estimated_sensitivities_beat_equal_bits_on_a_trained_model(stories260k_source, shared):
    found = [
        perplexity_after(one, stories260k_source, shared)
        for one in (Selective(average_bits=3, group_size=None), RTN(bits=3, group_size=None))
    ]
    assert found[0] < found[1]


@pytest.mark.slow
def test_measured_sensitivities_beat_equal_bits_on_a_trained_model(stories260k_source, shared):
    # From a quarter of this text they did not (16.6 against 11.8): chance decides which layers seem to gain.
    technique = Selective(average_bits=3, measure="loss", group_size=None)
    found = [perplexity_after(one, stories260k_source, shared) for one in (technique, RTN(bits=3, group_size=None))]
    assert found[0] < found[1]


def test_a_layer_of_the_embedded_model(smollm2):
    model = smollm2.load(torch.bfloat16, CPU)
    names = ["model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj"]
    token_ids = torch.randint(1, 40_000, (1, 16), generator=torch.Generator().manual_seed(0))
    report = Selective(average_bits=9, choices=[2, 16], group_size=64, include=names).apply(
        model, text_context(token_ids)
    )
    assert sorted(report.notes["bits"].values()) == [2, 16]  # (2 + 16) / 2 in a bf16 model
    assert report.notes["average_bits"] == 9
    # A group of 64 adds a scale of 16 bits and a zero-point of 2, a layer its shape in two int64.
    assert report.notes["bits_per_weight"] == pytest.approx((16 + 2 + 18 / 64 + 128 / (192 * 576)) / 2)
