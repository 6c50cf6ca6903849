import itertools

import pytest
import torch
from conftest import PROJECT
from contexts import text_context
from hard_layers import HARD, hard_layer
from restatements import gptq_layer, layer_inputs, perplexity

import slimsweep
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.storage import saved_model
from slimsweep.numerics.hessian import gram
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")


def correlated(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    """Inputs that share much, of magnitudes a hundredfold apart, as those of trained models are."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return mixed * torch.logspace(-1, 1, width)[torch.randperm(width, generator=generator)]


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def solve(
    technique: GPTQ | SparseGPT, weight: torch.Tensor, hessian: torch.Tensor, removed: torch.Tensor | None = None
) -> IntegerLinear:
    return technique.compress_layer(weight, technique.prepare(hessian), removed=removed)


def error(weight: torch.Tensor, dense: torch.Tensor, hessian: torch.Tensor) -> float:
    lost = (weight - dense).double()
    return float(((lost @ hessian.double()) * lost).sum())


def same(found: IntegerLinear, expected: IntegerLinear) -> bool:
    stored, wanted = found.storage, expected.storage
    return stored.keys() == wanted.keys() and all(torch.equal(stored[name], wanted[name]) for name in stored)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_diagonal_hessian_is_round_to_nearest_bit_for_bit(grid, bits):
    weight = normal(9, 172)
    weight[torch.rand(9, 172, generator=torch.Generator().manual_seed(2)) < 0.3] = 0
    weight[0, :43], weight[1, :43] = 0.25, 0
    diagonal = torch.rand(172, generator=torch.Generator().manual_seed(3)).round(decimals=1)  # ties and dead inputs
    for group_size, act_order, preserve in itertools.product((None, 4, 43), (True, False), (True, False)):
        fields = {"grid": grid, "bits": bits, "group_size": group_size, "preserve_sparsity": preserve}
        found = solve(GPTQ(act_order=act_order, block_columns=40, **fields), weight, torch.diag(diagonal))
        assert same(found, RTN(**fields).compress_layer(weight))
    dynamic = GPTQ(act_order=False, static_groups=False, block_columns=40, **fields)  # nothing is ever corrected
    assert same(solve(dynamic, weight, torch.diag(diagonal)), RTN(**fields).compress_layer(weight))


def test_an_error_moves_the_next_weight_by_hand():
    # H = [[2, 1], [1, 2]] for two inputs, and a third apart that makes the levels 0, 1, 2, 3. Rounding 1.4 to 1
    # moves H12 / H22 = 1/2 of 0.4 to the next, and 1.6 is nearer to 2.
    hessian = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1))
    found = solve(GPTQ(bits=2, damping_fraction=1, group_size=None), torch.tensor([[1.4, 1.4, 3.0]]), hessian)
    assert found.dequantized().tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(("act_order", "expected"), [(False, [1.0, 1.0, 3.0]), (True, [2.0, 1.0, 3.0])])
def test_act_order_solves_the_largest_input_first_by_hand(act_order, expected):
    # The mean diagonal is 2: H = [[3, 1], [1, 6]]. The first moves 0.4 / 6 to the second, which leaves it below 1.5;
    # the second moves 0.4 / 3 to the first, which lifts it above.
    hessian = torch.block_diag(torch.tensor([[1.0, 1.0], [1.0, 4.0]]), torch.ones(1, 1))
    technique = GPTQ(bits=2, damping_fraction=1, act_order=act_order, group_size=None)
    assert solve(technique, torch.tensor([[1.4, 1.4, 3.0]]), hessian).dequantized().tolist() == [expected]


def test_errors_pass_around_a_zero_by_hand():
    # H = [[2, 1, 1], [1, 2, 1], [1, 1, 2]]: of the first's 0.4, 1/3 reaches each of the others; the second stays 0,
    # and so passes half of its 0.4 / 3 on. 1.32 + 0.2 rounds to 2; 1.32 + 0.4 / 3 alone would round to 1.
    hessian, weight = torch.block_diag(torch.ones(3, 3), torch.ones(1, 1)), torch.tensor([[1.4, 0.0, 1.32, 3.0]])
    technique = GPTQ(bits=2, damping_fraction=1, group_size=None)
    found = solve(technique, weight, hessian, removed=weight == 0)
    assert found.dequantized().tolist() == [[1.0, 0.0, 2.0, 3.0]]


FIELDS = [
    {"bits": 2, "group_size": None},
    {"bits": 3, "act_order": False, "group_size": None},
    {"bits": 4, "group_size": 43},
    {"bits": 3, "group_size": 4, "act_order": False},
    {"bits": 4, "group_size": 43, "act_order": False, "static_groups": False},
    {"bits": 3, "group_size": 172, "act_order": False, "static_groups": False, "preserve_sparsity": False},
    {"bits": 3, "group_size": 43, "grid": "symmetric"},
    {"bits": 4, "preserve_sparsity": False, "group_size": None},
]


def assert_parity(
    technique: GPTQ, weight: torch.Tensor, hessian: torch.Tensor, removed: torch.Tensor | None = None
) -> IntegerLinear:
    """Every level is the nearest, but for ties within a thousandth of a step, on grids that agree."""
    layer = solve(technique, weight, hessian, removed)
    found, grid = layer.dequantized(), layer.grid
    _, gap = gptq_layer(
        weight,
        hessian,
        technique.bits,
        technique.group_size,
        technique.grid == "symmetric",
        technique.act_order,
        technique.static_groups,
        technique.zeros(removed),
        technique.damping_fraction,
        follow=(found, grid.scale, grid.zero - grid.lowest),
    )
    # A grid fitted on the way may round to the other bf16 scale: one part in 256 of its steps.
    assert gap < (1e-3 if technique.static_groups else 2**technique.bits / 128)
    return layer


@pytest.mark.parametrize("fields", FIELDS)
def test_parity_on_correlated_inputs_with_zeros_and_a_dead_input(fields):
    weight, inputs = normal(24, 172), correlated(600, 172)
    weight[:, 100:120:3] = 0
    inputs[:, 7] = 0
    technique = GPTQ(block_columns=50, **fields)
    for removed in (None, weight == 0):
        assert_parity(technique, weight, gram(inputs), removed)


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 4, "group_size": None},
        {"bits": 4, "group_size": None, "damping_fraction": 1e-6},
        {"bits": 3, "group_size": 16, "act_order": False},
    ],
)
@pytest.mark.parametrize("case", HARD)
def test_parity_on_hard_layers(case, fields):
    weight, inputs = hard_layer(case)
    assert_parity(GPTQ(**fields), weight, gram(inputs))


def test_the_restatement_alone_finds_the_same_weights():
    weight, hessian = normal(16, 48), gram(correlated(300, 48))
    for act_order in (True, False):
        found = solve(GPTQ(bits=4, act_order=act_order, group_size=None), weight, hessian).dequantized()
        expected, _ = gptq_layer(weight, hessian, 4, act_order=act_order)
        assert torch.equal(found.double(), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group_size", [None, 43])
def test_correcting_beats_rounding_whatever_the_grid(grid, group_size):
    weight, hessian = normal(24, 172), gram(correlated(600, 172))
    fields = {"bits": 3, "grid": grid, "group_size": group_size}
    rounded = RTN(**fields).compress_layer(weight).dequantized()
    for order in ({}, {"act_order": False}, {"act_order": False, "static_groups": False}):
        corrected = solve(GPTQ(**fields, **order), weight, hessian).dequantized()
        assert error(corrected, weight, hessian) < 0.8 * error(rounded, weight, hessian)


@pytest.mark.parametrize("fields", [{}, {"act_order": False}, {"act_order": False, "static_groups": False}])
def test_block_columns_change_nothing_but_rounding(fields):
    weight, hessian = normal(24, 172), gram(correlated(600, 172))
    found = [
        solve(GPTQ(bits=4, group_size=43, block_columns=columns, **fields), weight, hessian)
        for columns in (1, 7, 128, 999)
    ]
    for layer in found[1:]:
        assert int((layer.codes() != found[0].codes()).sum()) <= 4  # of 4,128; ties within rounding


def test_a_dead_input_is_rounded_to_nearest_and_moves_no_other():
    weight, inputs = normal(6, 20), correlated(80, 20)
    inputs[:, 4] = 0
    found = solve(GPTQ(bits=3, group_size=None), weight, gram(inputs)).dequantized()
    assert torch.equal(found[:, 4], RTN(bits=3, group_size=None).compress_layer(weight).dequantized()[:, 4])
    moved = weight.clone()
    moved[:, 4] = weight[:, 5]
    again = solve(GPTQ(bits=3, group_size=None), moved, gram(inputs)).dequantized()
    others = [column for column in range(20) if column != 4]
    same_range = (moved.amin(1) == weight.amin(1)) & (moved.amax(1) == weight.amax(1))
    assert int(same_range.sum()) >= 3
    assert torch.equal(again[same_range][:, others], found[same_range][:, others])


def test_equal_diagonals_keep_the_order_of_the_inputs():
    hessian = 0.3 * torch.ones(300, 300) + torch.eye(300)
    assert torch.equal(GPTQ(group_size=None).prepare(hessian).order, torch.arange(300))
    assert torch.equal(
        GPTQ(act_order=False, group_size=None).prepare(gram(correlated(400, 30))).order, torch.arange(30)
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("act_order", [True, False])
def test_zeros_stay_zero_and_without_preserve_sparsity_may_not(grid, act_order):
    weight, hessian = normal(12, 40), gram(correlated(90, 40))
    zeros = normal(12, 40, seed=5) < 0
    weight[zeros] = 0
    fields = {"bits": 3, "grid": grid, "group_size": 8, "act_order": act_order}
    assert torch.all(solve(GPTQ(**fields), weight, hessian, zeros).dequantized()[zeros] == 0)
    assert torch.any(solve(GPTQ(**fields), weight, hessian).dequantized()[zeros] != 0)
    loose = GPTQ(preserve_sparsity=False, **fields)
    assert torch.any(solve(loose, weight, hessian, zeros).dequantized()[zeros] != 0)


@pytest.mark.parametrize("grid", GRIDS)
def test_zeros_stay_zero_in_groups_fitted_on_the_way(grid):
    weight, hessian = normal(12, 40), gram(correlated(90, 40))
    zeros = normal(12, 40, seed=5) < 0
    weight[zeros] = 0
    technique = GPTQ(bits=3, grid=grid, group_size=8, act_order=False, static_groups=False)
    assert torch.all(solve(technique, weight, hessian, zeros).dequantized()[zeros] == 0)


@pytest.mark.parametrize("grid", ["symmetric", "asymmetric"])
def test_sparsegpt_that_removes_nothing_is_gptq_in_the_order_of_the_inputs(grid):
    weight, hessian = normal(12, 172), gram(correlated(400, 172))
    fields = {"bits": 4, "grid": grid, "group_size": 43, "block_columns": 50}
    joint = solve(SparseGPT(ratio=0, **fields), weight, hessian)
    assert bool(joint.keep.all())
    assert same(joint.weight, solve(GPTQ(act_order=False, **fields), weight, hessian))


def test_golden_output_of_version_2():
    assert GPTQ.version == 2
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    inputs = torch.tensor([[((5 * column + 2 * token) % 7 - 3) / 2 for column in range(6)] for token in range(9)])
    found = solve(GPTQ(bits=2, group_size=None), weight, gram(inputs))
    assert found.codes().tolist() == [[-1, 1, 0, 1, 0, -1], [-2, 1, 0, -2, 1, -1]]
    assert found.grid.scale.tolist() == [[0.83203125], [0.66796875]]
    assert found.grid.zero.tolist() == [[0.0], [-1.0]]


def test_raised_damping_is_noted_by_layer(tiny, monkeypatch):
    bad = torch.eye(2)[[1, 0]] * 1.05 + torch.eye(2)  # needs 0.1
    monkeypatch.setattr(GPTQ, "statistic", lambda _self, inputs: torch.block_diag(*[bad] * (inputs.shape[1] // 2)))
    report = GPTQ(group_size=None).apply(tiny, text_context(torch.ones(1, 4, dtype=torch.long)))
    assert report.notes["damping_raised"] == dict.fromkeys(tiny.targets(), pytest.approx(0.1))


def test_bad_knobs_are_named_together():
    with pytest.raises(ValueError) as caught:
        GPTQ(bits=5, group_size=0, grid="round", static_groups=False, block_columns=0, damping_fraction=2)
    for knob in ("bits=5", "group_size=0", "grid='round'", "static_groups=false", "block_columns=0", "damping_f"):
        assert knob in str(caught.value)


def test_act_order_needs_static_groups():
    with pytest.raises(ValueError, match="static_groups=false with act_order=true.*set act_order=false"):
        GPTQ(static_groups=False, group_size=None)


def test_the_plan_without_weights_stores_the_same_tensors(tiny, tiny_source):
    meta, technique = tiny_source.skeleton().copy(), GPTQ(bits=3, group_size=16)
    planned, real = technique.plan(meta), technique.apply(tiny, text_context(torch.arange(64).view(2, 32)))
    assert planned.notes["bits_per_weight"] == real.notes["bits_per_weight"]
    assert stored(meta) == stored(tiny)


def stored(model) -> dict:
    return {
        name: {key: (part.shape, part.dtype) for key, part in layer.storage.items()}
        for name, layer in packed_layers(model.module).items()
    }


@torch.no_grad()
def test_a_saved_model_loads_with_the_same_logits(tiny, tmp_path):
    token_ids = torch.arange(64).view(2, 32)
    GPTQ(bits=3, group_size=16).apply(tiny, text_context(token_ids))
    saved_model.save(tiny, tmp_path / "model")
    loaded = slimsweep.load(tmp_path / "model")
    assert torch.equal(loaded(input_ids=token_ids).logits, tiny.module(input_ids=token_ids).logits)


@torch.no_grad()
def test_on_the_first_block_of_the_embedded_model_it_beats_rounding(smollm2):
    model = smollm2.load(torch.bfloat16, CPU)
    text = (PROJECT / "LICENSE").read_text()
    token_ids = torch.tensor(smollm2.tokenizer()(text)["input_ids"][:512]).view(2, 256)
    include = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]
    dense = {name: weight_2d(model.targets()[name]).float() for name in include}
    inputs = layer_inputs(model.module, include, token_ids)
    report = GPTQ(bits=3, group_size=64, include=include).apply(model, text_context(token_ids))
    assert report.notes["bits_per_weight"] == pytest.approx(3 + (16 + 3) / 64, rel=0.01)
    for name, weight in dense.items():
        hessian = gram(inputs[name])
        rounded = RTN(bits=3, group_size=64).compress_layer(weight).dequantized()
        found = model.targets()[name].dequantized().float()
        assert error(found, weight, hessian) < 0.7 * error(rounded, weight, hessian)


@pytest.fixture
def stories(shared, stories260k):
    """Token windows of real stories: 8 to calibrate, 8 others to judge."""
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:30_000]
    token_ids = torch.tensor(stories260k.tokenizer(text)["input_ids"][: 16 * 256]).view(16, 256)
    return token_ids[:8], token_ids[8:]


@pytest.mark.parametrize("fields", [{"bits": 3}, {"bits": 4, "act_order": False, "static_groups": False}])
def test_parity_with_the_restatement_on_trained_layers(fields, stories260k, stories):
    names = [name for name in stories260k.targets() if ".layers.1." in name]
    technique = GPTQ(group_size=4, **fields)
    for name, inputs in layer_inputs(stories260k.module, names, stories[0][:4]).items():
        assert_parity(technique, weight_2d(stories260k.targets()[name]), gram(inputs))


@pytest.mark.parametrize("bits", [3, 4])
def test_it_beats_rounding_in_perplexity_on_a_trained_model(bits, stories260k_source, stories):
    calibration, judged = stories
    found = {}
    for technique in (GPTQ(bits=bits, group_size=None), RTN(bits=bits, group_size=None)):
        model = stories260k_source.load(torch.float32, CPU)
        technique.apply(model, text_context(calibration))
        found[type(technique)] = perplexity(model.module, judged)
    assert found[GPTQ] < found[RTN]


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("group_size", [None, 64])
def test_it_beats_rounding_in_perplexity_on_smollm2(bits, group_size, smollm2, shared):
    texts = [shared / "data" / "wikitext-2-raw" / f"wiki.{part}.raw" for part in ("train.head", "test")]
    ids = [torch.tensor(smollm2.tokenizer()(path.read_text()[:60_000])["input_ids"]) for path in texts]
    calibration, judged = (one[: 16 * 512].view(16, 512) for one in ids)
    found = {}
    for technique in (GPTQ(bits=bits, group_size=group_size), RTN(bits=bits, group_size=group_size)):
        model = smollm2.load(torch.bfloat16, CPU)
        technique.apply(model, text_context(calibration))
        found[type(technique)] = perplexity(model.module, judged)
    assert found[GPTQ] < found[RTN]
