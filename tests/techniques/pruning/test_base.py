"""What holds for every pruner, whichever way it ranks."""

import math

import pytest
import torch
from contexts import text_context

from slimsweep.linear.base import weight_2d
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.random import Random
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda

PRUNERS = {
    "magnitude": (Magnitude, {}),
    "magnitude by row": (Magnitude, {"scope": "row"}),
    "magnitude, global": (Magnitude, {"scope": "global"}),
    "random": (Random, {}),
    "wanda": (Wanda, {}),
    "sparsegpt": (SparseGPT, {}),
    "sparsegpt, narrow blocks": (SparseGPT, {"block_columns": 20}),  # 32 and 48 inputs: tails of 12 and 8
}
every_pruner = pytest.mark.parametrize("pruner", PRUNERS)


def make(pruner: str, **fields):
    kind, own = PRUNERS[pruner]
    return kind(**own | fields)


def ids() -> torch.Tensor:
    return torch.randint(1, 250, (4, 12), generator=torch.Generator().manual_seed(0))


def bits(model) -> dict[str, torch.Tensor]:
    return {name: weight_2d(layer).clone().view(torch.int32) for name, layer in model.targets().items()}


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def zeros(model) -> dict[str, int]:
    return {name: int((weight_2d(layer) == 0).sum()) for name, layer in model.targets().items()}


def kill_input(model) -> None:
    """Make input 3 of the first MLP dead, and give its layers zeros of both signs."""
    model.blocks[0].post_attention_layernorm.weight[3] = 0
    for layer in model.targets().values():
        layer.weight[:3, 5] = 0.0
        layer.weight[3, 6] = -0.0


@every_pruner
def test_ratio_zero_keeps_every_bit(pruner, tiny):
    kill_input(tiny)
    before = bits(tiny)
    report = make(pruner, ratio=0).apply(tiny, text_context(ids()))
    assert equal(bits(tiny), before)
    assert sum(layer.zeros for layer in report.layers) == 4 * len(before)


@every_pruner
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.95])
def test_a_second_pass_of_the_original_changes_no_bit(pruner, ratio, tiny):
    kill_input(tiny)
    make(pruner, ratio=ratio).apply(tiny, text_context(ids()))
    before = bits(tiny)
    make(pruner, ratio=ratio).apply(tiny, text_context(ids(), 1))
    assert equal(bits(tiny), before)


@every_pruner
def test_a_second_pattern_pass_changes_no_bit(pruner, tiny):
    make(pruner, ratio=0.5, pattern="2:4").apply(tiny, text_context(ids()))
    before = bits(tiny)
    make(pruner, ratio=0.5, pattern="2:4").apply(tiny, text_context(ids(), 1))
    assert equal(bits(tiny), before)


@every_pruner
def test_a_second_pass_of_the_remaining_compounds(pruner, tiny):
    for _ in range(2):
        report = make(pruner, ratio=0.3, relative_to="remaining").apply(tiny, text_context(ids()))
    weights = sum(layer.weights for layer in report.layers)
    units = sum(
        max(weight_2d(layer).shape) * 3 for layer in tiny.targets().values()
    )  # rounding: under 1 a unit and pass
    expected = (1 - 0.7**2) * weights
    assert expected - 2 * units < sum(layer.zeros for layer in report.layers) <= expected


@every_pruner
@pytest.mark.parametrize("fields", [{"ratio": 0.3}, {"ratio": 0.61}, {"ratio": 0.5, "pattern": "2:4"}])
def test_passes_of_the_original_are_one_pass_bit_for_bit(pruner, fields, tiny, tiny_source):
    once = tiny_source.load(torch.float32, torch.device("cpu"))
    for model in (once, tiny):
        kill_input(model)
    one = make(pruner, **fields).apply(once, text_context(ids()))
    three = make(pruner, **fields, passes=3).apply(tiny, text_context(ids()))
    assert equal(bits(tiny), bits(once))
    assert three.layers == one.layers
    assert all(layer.change > 0 for layer in one.layers) and {layer.change for layer in three.layers} == {None}
    assert three.notes["zeros_by_pass"] == [sum(layer.zeros for layer in one.layers)] * 3


UNITS = {  # weights that are ranked together, written out: [out in] -> sizes
    "magnitude": lambda out, inputs: [out * inputs],
    "magnitude by row": lambda out, inputs: [inputs] * out,
    "random": lambda out, inputs: [out * inputs],
    "wanda": lambda out, inputs: [inputs] * out,
    "sparsegpt": lambda out, inputs: [out * inputs],  # 128 columns at once are all of them
    "sparsegpt, narrow blocks": lambda out, inputs: [out * 20] * (inputs // 20) + [out * (inputs % 20)],
}


@pytest.mark.parametrize("pruner", UNITS)
def test_two_passes_of_the_remaining_remove_the_exact_count_of_every_layer(pruner, tiny):
    make(pruner, ratio=0.3, relative_to="remaining", passes=2).apply(tiny, text_context(ids()))
    for name, layer in tiny.targets().items():
        first = [(size, size * 3 // 10) for size in UNITS[pruner](*weight_2d(layer).shape)]
        both = sum(gone + (size - gone) * 3 // 10 for size, gone in first)
        assert zeros(tiny)[name] == both
        assert abs(both - 0.51 * weight_2d(layer).numel()) < 2 * len(first)  # 1 - 0.7^2, each count rounded down


def test_two_passes_of_the_remaining_of_all_layers_together_count_once(tiny):
    total = sum(weight_2d(layer).numel() for layer in tiny.targets().values())
    report = make("magnitude, global", ratio=0.3, relative_to="remaining", passes=2).apply(tiny, text_context(ids()))
    first = total * 3 // 10
    assert report.notes["zeros_by_pass"] == [first, first + (total - first) * 3 // 10]
    assert sum(zeros(tiny).values()) == report.notes["zeros_by_pass"][-1]


@every_pruner
def test_two_passes_are_two_stages_but_for_chance(pruner, tiny, tiny_source):
    twice = tiny_source.load(torch.float32, torch.device("cpu"))
    for _ in range(2):
        make(pruner, ratio=0.3, relative_to="remaining").apply(twice, text_context(ids()))
    make(pruner, ratio=0.3, relative_to="remaining", passes=2).apply(tiny, text_context(ids()))
    assert equal(bits(tiny), bits(twice)) is (pruner != "random")


@every_pruner
@pytest.mark.parametrize("passes", [0, -1, 1.5, True, None])
def test_a_number_of_passes_that_cannot_be_is_refused(pruner, passes):
    with pytest.raises(
        (ValueError, TypeError), match="(?s)passes.*(whole number of at least 1|1.5|None)"
    ):  # TypeError: by the tests' type checker
        make(pruner, ratio=0.5, passes=passes)


@every_pruner
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:16"])
def test_patterns_keep_exactly_n_of_every_m(pruner, pattern, tiny):
    kept, group = map(int, pattern.split(":"))
    technique = make(pruner, ratio=0.1, pattern=pattern)
    assert technique.ratio == 1 - kept / group
    technique.apply(tiny, text_context(ids()))
    for layer in tiny.targets().values():
        assert torch.all((weight_2d(layer) != 0).view(-1, group).sum(dim=1) == kept)


@every_pruner
@pytest.mark.parametrize("fields", [{"ratio": 0.3}, {"ratio": 0.61}, {"ratio": 0.0, "pattern": "1:4"}])
def test_counts_planned_on_the_meta_device_are_those_of_real_pruning(pruner, fields, tiny, tiny_source):
    meta = tiny_source.skeleton().copy()
    assert_plan(make(pruner, **fields), meta, tiny)


@every_pruner
@pytest.mark.parametrize("of", ["original", "remaining"])
def test_plans_of_a_second_pass_too(pruner, of, tiny, tiny_source):
    meta = tiny_source.skeleton().copy()
    for ratio in (0.3, 0.2):
        assert_plan(make(pruner, ratio=ratio, relative_to=of), meta, tiny)


@every_pruner
@pytest.mark.parametrize("of", ["original", "remaining"])
def test_plans_of_passes_within_a_stage_too(pruner, of, tiny, tiny_source):
    meta = tiny_source.skeleton().copy()
    technique = make(pruner, ratio=0.3, relative_to=of, passes=3)
    planned = technique.plan(meta).notes["zeros_by_pass"]
    assert planned == technique.apply(tiny, text_context(ids())).notes["zeros_by_pass"]
    assert sum(meta.zeros.values()) == planned[-1] == sum(zeros(tiny).values())


def assert_plan(technique, meta, real):
    planned, report = technique.plan(meta), technique.apply(real, text_context(ids()))
    if "global" in (getattr(technique, "scope", ""),) and not technique.group:
        assert sum(meta.zeros.values()) == sum(layer.zeros for layer in report.layers)
        assert "sum" in planned.notes["zeros_by_layer"]
    else:
        assert planned.layers == report.layers
        assert meta.zeros == zeros(real)


@every_pruner
def test_half_precision_weights_get_the_same_counts(pruner, tiny_source):
    model = tiny_source.load(torch.bfloat16, torch.device("cpu"))
    report = make(pruner, ratio=0.5).apply(model, text_context(ids()))
    assert sum(zeros(model).values()) == sum(layer.zeros for layer in report.layers)
    assert sum(layer.zeros for layer in report.layers) * 2 == sum(layer.weights for layer in report.layers)


@every_pruner
@pytest.mark.parametrize("ratio", ["half", None])
def test_ratios_that_are_no_numbers_are_refused(pruner, ratio):
    with pytest.raises(
        (ValueError, TypeError), match="(?s)ratio.*(half|None)"
    ):  # TypeError: by the tests' type checker
        make(pruner, ratio=ratio)


@every_pruner
@pytest.mark.parametrize("ratio", [1, -0.1, 1.5, True, math.nan])
def test_ratios_out_of_range_are_refused(pruner, ratio):
    with pytest.raises(ValueError, match=r"ratio=.*: give a number in \[0, 1\)"):
        make(pruner, ratio=ratio)


@every_pruner
def test_all_bad_values_are_named_together(pruner):
    with pytest.raises(ValueError, match=r"inputs='sparse'.*relative_to='all'.*pattern='4:2'"):
        make(pruner, ratio=0.5, inputs="sparse", relative_to="all", pattern="4:2")


@every_pruner
def test_the_ratio_cannot_be_forgotten(pruner):
    with pytest.raises(TypeError, match="ratio"):
        make(pruner)


def test_a_pattern_has_no_ratio_of_the_remaining():
    with pytest.raises(ValueError, match="relative_to=remaining has no meaning with pattern=2:4"):
        Magnitude(ratio=0.5, pattern="2:4", relative_to="remaining")


def test_a_pattern_that_does_not_divide_names_every_layer_and_what_would(tiny_source):
    (fault,) = Magnitude(ratio=0.5, pattern="2:5").faults(tiny_source.skeleton())
    assert fault.count("model.layers.0-1.") == 7  # of both blocks
    assert fault.count("(32)") == 6 and "model.layers.0-1.mlp.down_proj (48)" in fault
    assert "divisible by 5" in fault and "choose an m that divides 16" in fault
    assert Magnitude(ratio=0.5, pattern="2:4").faults(tiny_source.skeleton()) == []


def test_excluded_layers_need_not_fit_the_pattern(tiny_source):
    assert Magnitude(ratio=0.5, pattern="8:32", exclude=("*down*",)).faults(tiny_source.skeleton()) == []
