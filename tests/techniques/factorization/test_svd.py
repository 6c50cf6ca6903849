from dataclasses import replace

import pytest
import torch
from conftest import meta_model
from contexts import text_context
from family_shapes import random_model
from hard_layers import HARD, hard_layer
from planning import apply_or_plan
from restatements import layer_inputs, perplexity
from small_jobs import record_at
from stages import SMALL, experiment

import slimsweep
from slimsweep.evaluation.cost import Cost
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import linear_forms, weight_2d
from slimsweep.linear.low_rank import LowRankLinear
from slimsweep.linear.mask import masked_layers
from slimsweep.models.storage import saved_model
from slimsweep.numerics.hessian import gram
from slimsweep.numerics.low_rank import projection_factors
from slimsweep.pipeline.chain import compress
from slimsweep.techniques.factorization.svd import (
    SVD,
    VARIANTS,
    energy_rank,
    largest_rank,
    left_singular,
    weighed,
)
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")
IDS = torch.randint(0, 258, (2, 40), generator=torch.Generator().manual_seed(0))
SMALL_DAMPING = 1e-8
# The tiny Llama: two blocks; q, o 32 x 32; k, v 16 x 32; gate, up, down 48 x 32; embeddings, tied, 258 x 32; 5 norms.
# At 0.2 the ranks are 0.8 x 1024 / 64 = 12.8, 0.8 x 512 / 48 = 8.53 and 0.8 x 1536 / 80 = 15.36, rounded down.
FACTORS = 2 * (2 * 12 * 64 + 2 * 8 * 48 + 3 * 15 * 80)
OUTSIDE = 258 * 32 + 5 * 32


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(tokens: int, width: int) -> torch.Tensor:
    """Inputs that share much, of magnitudes tenfold apart."""
    return normal(tokens, width) @ normal(width, width, seed=1) / width**0.5 * torch.logspace(-0.5, 0.5, width)


def factored(weight: torch.Tensor, inputs: torch.Tensor | None = None, **knobs) -> LowRankLinear | torch.Tensor:
    """The layer that the technique makes of a weight and its inputs."""
    technique = SVD(**{"ratio": 0.3, "damping_fraction": SMALL_DAMPING} | knobs)
    prepared = technique.prepare(technique.statistic(inputs)) if technique.looks else None
    return technique.compress_layer(weight, prepared)


def output_error(weight: torch.Tensor, layer: LowRankLinear, inputs: torch.Tensor) -> float:
    return float((inputs.double() @ (weight - layer.weight).double().T).square().sum())


def tail(matrix: torch.Tensor, rank: int) -> float:
    """Squared error of the nearest matrix of this rank (Eckart and Young)."""
    return float(torch.linalg.svdvals(matrix.double())[rank:].square().sum())


@pytest.mark.parametrize(
    ("ratio", "shape", "rank"),
    [
        (0.2, (576, 576), 230),  # 0.8 x 288
        (0.2, (1536, 576), 335),  # 0.8 x 418.9
        (0.29, (200, 200), 71),  # 0.71 x 100, which floats make 70.99
        (0.3, (7, 13), 3),  # 0.7 x 91 / 20 = 3.185
        (0.99, (7, 13), 1),
    ],
)
def test_the_rank_of_a_ratio_by_hand(ratio, shape, rank):
    assert SVD(ratio=ratio).form(shape) == (LowRankLinear, {"rank": rank})
    assert factored(normal(*shape), variant="plain", ratio=ratio).rank == rank


def test_by_hand_each_variant_keeps_the_direction_that_it_finds_largest():
    assert SVD.version == 1
    weight = torch.diag(torch.tensor([4.0, 2.0, 1.0]))  # 3 x 3 at 0.3: rank 0.7 x 9 / 6
    inputs = torch.diag(torch.tensor([1.0, 16.0, 1.0]))
    first, second = torch.diag(torch.tensor([4.0, 0, 0])), torch.diag(torch.tensor([0, 2.0, 0]))
    assert torch.allclose(factored(weight, variant="plain").weight, first, atol=1e-6)
    assert torch.allclose(factored(weight, inputs, variant="whitened").weight, second, atol=1e-6)  # 4, 32, 1
    assert torch.allclose(factored(weight, inputs, variant="activation").weight, second, atol=1e-6)  # 4, 2 x 4, 1
    weak = factored(weight, inputs, variant="activation", alpha=0.2).weight  # 4, 2 x 1.74, 1
    assert torch.allclose(weak, first, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 24), (40, 17), (17, 40), (1, 9)])
def test_full_rank_is_exact(shape):
    weight, inputs = normal(*shape), correlated(200, shape[1])
    for variant in VARIANTS:
        technique = SVD(ratio=0.3, variant=variant)
        prepared = technique.prepare(technique.statistic(inputs)) if technique.looks else None
        a, b = projection_factors(weight, left_singular(weighed(weight, prepared))[0])
        assert torch.allclose(b @ a, weight, atol=1e-5), variant


@pytest.mark.parametrize("knobs", [{"ratio": 0}, {"ratio": None, "energy": 1}])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_to_remove_leaves_every_layer_as_it_is(variant, knobs, tiny, tiny_source):
    report = apply_or_plan(SVD(variant=variant, **knobs), tiny, IDS)
    dense = tiny_source.load(torch.float32, CPU)
    for name, layer in tiny.targets().items():
        assert torch.equal(layer.weight, dense.targets()[name].weight)
    assert report.notes["left_dense"] == list(dense.targets()) and report.notes["rank"] == {}


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 9), (5, 1)])
def test_factors_are_never_larger_than_the_weight(shape):
    assert largest_rank(*shape) * sum(shape) < shape[0] * shape[1] <= (largest_rank(*shape) + 1) * sum(shape)
    if 1 in shape:  # rank 1 is the least, and no smaller
        assert SVD(ratio=0.5).form(shape) is None
        assert factored(normal(*shape), variant="plain") is not None


@pytest.mark.parametrize("shape", [(30, 30), (41, 23), (23, 41)])
def test_plain_loses_the_tail_of_the_singular_values(shape):
    weight = normal(*shape)
    layer = factored(weight, variant="plain")
    assert float((weight - layer.weight).square().sum()) == pytest.approx(tail(weight, layer.rank), rel=1e-4)
    left, values, right = torch.linalg.svd(weight)
    nearest = left[:, : layer.rank] * values[: layer.rank] @ right[: layer.rank]
    assert torch.allclose(layer.weight, nearest, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 30), (41, 23), (23, 41)])
def test_whitened_loses_the_tail_of_the_whitened_weight(shape):
    """arXiv:2403.07378, theorem 3.2: what goes with a singular value of W S is that value, for S S^T = X^T X."""
    weight, inputs = normal(*shape, seed=3), correlated(300, shape[1])
    layer = factored(weight, inputs, variant="whitened")
    root = torch.linalg.cholesky(inputs.double().T @ inputs.double())
    expected = tail(weight.double() @ root, layer.rank)
    assert output_error(weight, layer, inputs) == pytest.approx(expected, rel=1e-3)
    left, values, right = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    papers = (left[:, : layer.rank] * values[: layer.rank] @ right[: layer.rank]) @ torch.linalg.inv(root)
    assert torch.allclose(layer.weight.double(), papers, atol=1e-3)


def test_activation_is_the_papers_formula():
    weight, inputs = normal(20, 30), correlated(100, 30)
    layer = factored(weight, inputs, variant="activation", alpha=0.7)
    scale = inputs.abs().mean(dim=0) ** 0.7
    left, values, right = torch.linalg.svd(weight * scale, full_matrices=False)
    papers = (left[:, : layer.rank] * values[: layer.rank] @ right[: layer.rank]) / scale
    assert torch.allclose(layer.weight, papers, atol=1e-4)


@pytest.mark.parametrize("case", HARD)
def test_whitened_is_best_on_hard_layers(case):
    weight, inputs = hard_layer(case)
    errors = {variant: output_error(weight, factored(weight, inputs, variant=variant), inputs) for variant in VARIANTS}
    least = tail(inputs.double() @ weight.double().T, factored(weight, variant="plain").rank)
    scale = float((inputs.double() @ weight.double().T).square().sum())
    assert errors["whitened"] <= least * 1.01 + 1e-6 * scale
    assert errors["whitened"] <= min(errors.values()) + 1e-6 * scale


@pytest.mark.parametrize("variant", ["activation", "whitened"])
def test_a_dead_input_takes_no_rank_and_keeps_what_the_others_span(variant):
    weight, inputs = normal(12, 16), correlated(100, 16)
    inputs[:, 3] = 0
    loud = weight.clone()
    loud[:, 3] *= 1000  # would be the first singular vector, if it counted
    layer = factored(loud, inputs, variant=variant)
    without = [column for column in range(16) if column != 3]
    assert torch.allclose(
        layer.weight[:, without], factored(weight, inputs, variant=variant).weight[:, without], atol=1e-4
    )
    basis = torch.linalg.qr(layer.b)[0]
    assert torch.allclose(layer.weight[:, 3], basis @ (basis.T @ loud[:, 3]), rtol=1e-4, atol=1e-2)
    nothing = factored(weight, torch.zeros(5, 16), variant=variant)
    assert torch.allclose(nothing.weight, factored(weight, variant="plain").weight, atol=1e-5)


def test_a_weight_of_zeros_is_factors_of_zeros():
    layer = factored(torch.zeros(8, 8), correlated(20, 8))
    assert not layer.weight.any() and layer.weight.isfinite().all()


def test_the_rank_of_an_energy_by_hand():
    values = torch.tensor([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
    ranks = {0.01: 1, 0.64: 1, 0.65: 2, 0.92: 2, 0.93: 3, 1.0: 3}
    assert {energy: energy_rank(values, energy) for energy in ranks} == ranks
    assert energy_rank(torch.zeros(3), 0.5) == 1


@pytest.mark.parametrize("energy", [0.5, 0.9])
def test_an_energy_is_met_by_the_smallest_rank(energy):
    weight = normal(40, 30) * torch.logspace(0, -2, 30)
    inputs = correlated(200, 30)
    for variant, seen in (("plain", torch.eye(30)), ("whitened", inputs)):
        layer = factored(weight, inputs, variant=variant, ratio=None, energy=energy)
        total = float((seen @ weight.T).square().sum())
        assert output_error(weight, layer, seen) <= (1 - energy) * total * 1.001
        assert tail(seen @ weight.T, layer.rank - 1) > (1 - energy) * total


def test_what_looks_at_text_depends_on_the_knobs():
    assert not SVD(ratio=0.5, variant="plain", inputs="sequential").requirements.calibration
    assert not SVD(ratio=0).requirements.calibration
    for variant in ("activation", "whitened"):
        needs = SVD(ratio=0.5, variant=variant, inputs="sequential").requirements
        assert needs.calibration and needs.whole_text and not needs.whole_model


def test_working_bytes_count_statistics_only_where_there_are_some():
    plain, activation, whitened = (SVD(ratio=0.5, variant=variant).working_bytes([(8, 16)]) for variant in VARIANTS)
    assert activation - plain == 4 * 16  # the magnitudes
    assert whitened - plain == (4 + 12) * 16 * 16  # the Gram matrix, and its factor


def test_the_factor_of_the_gram_matrix_is_shared_with_sparsegpt():
    technique, other = SVD(ratio=0.5), SparseGPT(ratio=0.5)
    assert (technique.statistic_name, technique.prepared_name) == (other.statistic_name, other.prepared_name)
    prepared = technique.prepare(gram(correlated(50, 8)))
    again = technique.from_tensors(technique.to_tensors(prepared))
    assert torch.equal(again.upper, prepared.upper) and technique.notes(again) == {}
    assert SVD(ratio=0.5, variant="plain").statistic_name == SVD(ratio=0.5, variant="plain").prepared_name == ""


def test_a_damping_that_had_to_be_raised_is_noted():
    technique = SVD(ratio=0.5)
    indefinite = torch.tensor([[1.0, 1.05], [1.05, 1.0]])  # lowest root -0.05
    assert technique.notes(technique.prepare(indefinite)) == {"damping_raised": pytest.approx(0.1)}


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ratio": 1.0}, r"ratio=1.0: give a number in \[0, 1\)"),
        ({"ratio": None}, "ratio=None: give"),
        ({"energy": 0}, r"energy=0: give a number in \(0, 1\]"),
        ({"variant": "asvd"}, "variant='asvd': give plain, activation or whitened"),
        ({"alpha": -1}, "alpha=-1: give a number of at least 0"),
        ({"damping_fraction": 0}, r"damping_fraction=0: give a number in \(0, 1\]"),
        ({"inputs": "none"}, "inputs='none': give compressed, dense or sequential"),
    ],
)
def test_bad_knobs_are_named(knobs, message):
    with pytest.raises(ValueError, match=message):
        SVD(**{"ratio": 0.5} | knobs)


def test_an_energy_takes_the_place_of_the_ratio():
    assert SVD(ratio=0.5, energy=0.9) == SVD(ratio=0.2, energy=0.9) == SVD(ratio=None, energy=0.9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_and_gmacs_are_a_count_by_hand_with_weights_or_without(dtype, variant, tiny_source):
    real, meta = tiny_source.load(dtype, CPU), replace(tiny_source, weights="meta").load(dtype, CPU)
    technique = SVD(ratio=0.2, variant=variant)
    reports = [apply_or_plan(technique, model, IDS) for model in (real, meta)]
    size, cost = Size().measure(real, None).values, Cost(tokens=64).measure(real, None).values
    assert size["parameters"] == OUTSIDE + FACTORS
    assert size["weight_bytes"] == dtype.itemsize * (OUTSIDE + FACTORS)
    attention = 2 * 2 * 64**2 * 32  # QK and AV of two blocks
    assert round(cost["gmacs"] * 1e9) == 64 * (FACTORS + 258 * 32) + attention
    assert Size().measure(meta, None).values == size and Cost(tokens=64).measure(meta, None).values == cost
    assert reports[0].notes["rank"] == reports[1].notes["rank"]
    assert {layer.name: layer.weights for layer in reports[0].layers} == {
        layer.name: layer.weights for layer in reports[1].layers
    }
    assert reports[0].notes["rank"]["model.layers.0.mlp.up_proj"] == 15


def test_llama_2_7b_is_counted_by_hand():
    model = meta_model("llama_2_7b")
    SVD(ratio=0.2).plan(model)
    block = 4 * 1638 * (4096 + 4096) + 3 * 2388 * (4096 + 11008)  # ranks 1638.4 and 2388.17, rounded down
    head, norms, tokens = 32000 * 4096, 65 * 4096, 64
    assert Size().measure(model, None).values["parameters"] == 32 * block + 2 * head + norms == 5_442_539_520
    macs = tokens * (32 * block + head) + 32 * 2 * tokens**2 * 4096
    assert round(Cost(tokens=tokens).measure(model, None).values["gmacs"] * 1e9) == macs


@pytest.mark.parametrize("inputs", ["compressed", "dense", "sequential"])
def test_the_walk_gives_the_first_layers_their_own_inputs(inputs, tiny, tiny_source):
    first = "model.layers.0.self_attn.q_proj"
    seen = layer_inputs(tiny_source.load(torch.float32, CPU).module, [first], IDS)[first]
    weight = tiny.targets()[first].weight.detach().clone()
    SVD(ratio=0.2, inputs=inputs).apply(tiny, text_context(IDS))
    expected = factored(weight, seen, ratio=0.2, damping_fraction=0.01)
    assert torch.allclose(tiny.targets()[first].weight, expected.weight, atol=1e-4)
    assert tiny.module(input_ids=IDS).logits.isfinite().all()


def test_a_plan_by_energy_says_what_it_cannot_know(tiny_source):
    real, meta = tiny_source.load(torch.float32, CPU), replace(tiny_source, weights="meta").load(torch.float32, CPU)
    technique = SVD(ratio=None, energy=0.6, variant="plain")
    found, planned = (apply_or_plan(technique, model) for model in (real, meta))
    assert "ranks by energy depend on the weights" in planned.notes["plan"] and "plan" not in found.notes
    assert all(found.notes["rank"][name] <= rank for name, rank in planned.notes["rank"].items())
    assert Size().measure(real, None).values["parameters"] <= Size().measure(meta, None).values["parameters"]


def test_zeros_of_an_earlier_stage_are_filled_and_noted(tiny_source):
    real, meta = tiny_source.load(torch.float32, CPU), replace(tiny_source, weights="meta").load(torch.float32, CPU)
    for model in (real, meta):
        apply_or_plan(Magnitude(ratio=0.5), model)
        report = apply_or_plan(SVD(ratio=0.2, include=["*.mlp.*"]), model, IDS)
        assert report.notes["refilled_zeros"] == dict.fromkeys(report.notes["rank"], 48 * 32 // 2)
    assert len(masked_layers(real.module)) == 8  # attention's
    assert Size().measure(real, None).values == Size().measure(meta, None).values


def test_a_layer_that_stays_dense_keeps_its_zeros(tiny):
    apply_or_plan(Magnitude(ratio=0.5), tiny)
    before = {name: layer.weight.clone() for name, layer in tiny.targets().items()}
    report = apply_or_plan(SVD(ratio=None, energy=1.0), tiny, IDS)
    assert "refilled_zeros" not in report.notes and len(masked_layers(tiny.module)) == 14
    assert all(torch.equal(layer.weight, before[name]) for name, layer in tiny.targets().items())
    assert sum(layer.zeros for layer in report.layers) == sum(weight.numel() // 2 for weight in before.values())


def test_other_forms_are_refused_and_refuse(tiny):
    apply_or_plan(RTN(bits=4, group_size=None, include=["*.mlp.*"]), tiny)
    (fault,) = SVD(ratio=0.2).faults(tiny)
    assert fault.startswith("factors are made of plain weights only, and these layers are stored in another form: ")
    assert "model.layers.0-1.mlp.up_proj (integer)" in fault and "self_attn" not in fault
    technique = SVD(ratio=0.2, exclude=["*.mlp.*"])
    assert technique.faults(tiny) == []
    apply_or_plan(technique, tiny, IDS)
    (again,) = technique.faults(tiny)
    assert "q_proj (low_rank)" in again
    (rounding,) = RTN(bits=4, group_size=None).faults(tiny)
    assert "no single weights can be removed or rounded" in rounding


def test_conv1d_of_gpt2_is_factored_as_it_multiplies(tmp_path):
    model = random_model("gpt2", str(tmp_path)).load(torch.float32, CPU)
    name = "transformer.h.0.attn.c_attn"  # 32 inputs, 96 outputs
    before = model.targets()[name]
    before.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    weight, bias = weight_2d(before).clone(), before.bias
    SVD(ratio=0.2, variant="plain").apply(model, text_context())
    layer, inputs = model.targets()[name], normal(2, 5, 32)
    expected = factored(weight, variant="plain", ratio=0.2)
    assert layer.rank == 19 and torch.equal(layer.weight, expected.weight)  # 0.8 x 3072 / 128 = 19.2
    assert torch.allclose(layer(inputs), inputs @ expected.weight.T + bias, atol=1e-5)
    assert len(linear_forms(model.module)) == len(model.targets())


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_encoders_and_pairs_are_factored_too(name, tmp_path):
    model = random_model(name, str(tmp_path)).load(torch.float32, CPU)
    SVD(ratio=0.4, variant="plain").apply(model, text_context())
    assert {type(layer) for layer in model.targets().values()} == {LowRankLinear}


READ = """
import sys, torch, slimsweep
token_ids, expected = torch.load(sys.argv[2])
with torch.no_grad():
    assert torch.equal(slimsweep.load(sys.argv[1])(input_ids=token_ids).logits, expected)
"""


def test_a_saved_model_gives_equal_logits_in_a_new_process(tiny, tmp_path, new_processes):
    SVD(ratio=0.3).apply(tiny, text_context(IDS))
    assert not saved_model.save(tiny, tmp_path / "saved")  # no plain from_pretrained
    expected = tiny.module(input_ids=IDS).logits.detach()
    assert torch.equal(slimsweep.load(tmp_path / "saved")(input_ids=IDS).logits, expected)
    torch.save((IDS, expected), tmp_path / "expected.pt")
    new_processes.run(READ, tmp_path / "saved", tmp_path / "expected.pt")


@pytest.mark.parametrize("variant", VARIANTS)
def test_dense_inputs_are_shared_between_ratios(variant, tmp_path):
    knobs = (f"technique.svd.variant={variant}", "technique.svd.inputs=dense", "technique=svd")
    models = [compress(experiment(tmp_path, *knobs, f"ratio={ratio}")).model for ratio in (0.2, 0.2, 0.6)]
    sizes = [Size().measure(model, None).values["parameters"] for model in models]
    assert sizes[0] == sizes[1] > sizes[2]


def test_a_job_records_ratio_or_energy(slimsweep):
    rest = (*SMALL, "technique=svd")
    answer = slimsweep(*rest, "ratio=0.4")
    assert answer.status == 0, answer.err
    by_ratio = record_at(answer)
    assert by_ratio["ratio"] == 0.4 and by_ratio["compression_factor"] > 1 and by_ratio["sparsity"] == 0
    by_energy = record_at(slimsweep(*rest, "ratio=0.4", "technique.svd.energy=0.8", "technique.svd.variant=plain"))
    assert by_energy["ratio"] is None and by_energy["seed"] is None  # plain draws no text
    (stage,) = by_energy["stages"]
    assert stage["notes"]["rank"] and "packing_error" in stage["notes"]


def test_on_a_trained_model_looking_at_text_loses_less(shared, stories260k_source):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    losses = {}
    for variant in VARIANTS:
        model = stories260k_source.load(torch.float32, CPU)
        token_ids = torch.tensor(model.tokenizer(text)["input_ids"][: 24 * 256]).view(24, 256)
        SVD(ratio=0.3, variant=variant).apply(model, text_context(token_ids[:16]))
        losses[variant] = perplexity(model.module, token_ids[16:])
    assert losses["whitened"] < losses["activation"] < losses["plain"]


@pytest.mark.parametrize("shape", [(1, 64), (2, 2), (64, 1)])
def test_a_layer_without_a_smaller_rank_is_planned_dense(shape):
    assert SVD(ratio=None, energy=0.5).form(shape) is None
