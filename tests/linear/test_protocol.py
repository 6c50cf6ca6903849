"""The linear protocol, proved by a form that the package does not know: layers as products of two factors."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PROJECT
from family_shapes import random_model
from low_rank import AdaptedLinear, LowRank, LowRankLinear, adapt
from planning import apply_or_plan
from reductions import logits, loud
from safetensors.torch import load_file
from small_jobs import SMALL, record_at
from torch.utils.flop_counter import FlopCounterMode

import slimsweep
from slimsweep.blockwise.fisher import fisher_diagonal
from slimsweep.blockwise.layerwise import install_empty, replace_weight
from slimsweep.errors import ModelError
from slimsweep.evaluation.cost import Cost, all_linears
from slimsweep.evaluation.size import Size
from slimsweep.linear import base as linear
from slimsweep.linear.base import LinearForm, PackedLinear, kinds, linear_forms, linear_layers
from slimsweep.linear.mask import MASKS_FILE, masked_layers
from slimsweep.models.anatomy import shapes_digest
from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import parameter_count, weights_digest
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.checkpoint import MANIFEST, PACKED_FILE
from slimsweep.pipeline import memory_plan
from slimsweep.pipeline.memory_plan import Part
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.half import Half
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.structured.glu import Glu
from slimsweep.techniques.structured.layers import Layers

CPU = torch.device("cpu")
IDS = torch.randint(0, 258, (2, 16), generator=torch.Generator().manual_seed(0))
RANK = 4
MLP = ["*.mlp.*"]
NAME = "model.layers.1.mlp.up_proj"
# The tiny Llama: two blocks; q, o 32 x 32; k, v 16 x 32; gate, up, down 48 x 32; embeddings, tied, 258 x 32; 5 norms.
ATTENTION_WEIGHTS = 2 * (2 * 32 * 32 + 2 * 16 * 32)
MLP_WEIGHTS = 2 * 3 * 48 * 32
FACTORS = 2 * 3 * RANK * (48 + 32)
OUTSIDE = 258 * 32 + 5 * 32
PARAMETERS = OUTSIDE + ATTENTION_WEIGHTS + FACTORS
OWN = (f"--config-dir={PROJECT / 'tests' / 'conf'}",)


@pytest.fixture
def factored(tiny):
    """The tiny model with factors in the place of its MLPs' weights."""
    apply_or_plan(LowRank(rank=RANK, include=MLP), tiny)
    return tiny


def size(model) -> dict:
    return Size().measure(model, None).values


def test_parameters_and_bytes_are_those_of_the_factors(factored):
    values = size(factored)
    assert values["parameters"] == values["nonzero_parameters"] == parameter_count(factored.module) == PARAMETERS
    assert values["weight_bytes"] == 4 * PARAMETERS
    assert values["bits_per_weight"] == 32
    dense = OUTSIDE + ATTENTION_WEIGHTS + MLP_WEIGHTS
    assert values["compression_factor"] == 2 * dense / (4 * PARAMETERS)


def test_zeros_of_factors_are_zeros_among_their_numbers(factored):
    factored.targets()[NAME].a.data[:, :5] = 0
    values, cost = size(factored), Cost(tokens=10).measure(factored, None).values
    assert values["parameters"] - values["nonzero_parameters"] == RANK * 5
    assert values["sparsity"] == RANK * 5 / (ATTENTION_WEIGHTS + FACTORS)
    bits = ATTENTION_WEIGHTS + FACTORS  # one for each number; every layer has a multiple of 8
    assert values["bitmap_bytes"] == values["weight_bytes"] - 4 * RANK * 5 + bits // 8
    assert round((cost["gmacs"] - cost["gmacs_nonzero"]) * 1e9) == 10 * RANK * 5


def test_gmacs_are_the_closed_form_and_torchs_count(factored):
    tokens = 64
    closed = tokens * (ATTENTION_WEIGHTS + FACTORS + 258 * 32) + 2 * 2 * tokens**2 * 32  # QK and AV of two blocks
    measured = Cost(tokens=tokens).measure(factored, None).values
    assert round(measured["gmacs"] * 1e9) == round(measured["gmacs_nonzero"] * 1e9) == closed
    factored.module.set_attn_implementation("eager")  # the counter misses fused attention on a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        factored.module(input_ids=torch.full((1, tokens), 5))
    rotary = tokens * 4  # positions times the frequencies of a head of 8
    assert counter.get_total_flops() / 2 - rotary == closed


def test_the_dense_weight_is_the_product_and_the_forward_uses_the_factors(tmp_path):
    model = loud("qwen2", str(tmp_path))  # has biases
    name = "model.layers.0.self_attn.q_proj"
    before = model.targets()[name]
    replace_weight(model, name, LowRankLinear.from_weight(before.weight.detach().float(), 32))
    layer, inputs = model.targets()[name], torch.randn(2, 5, 32)
    assert torch.equal(layer.weight, layer.b @ layer.a) and layer.bias is before.bias
    assert torch.allclose(layer.weight, before.weight, atol=1e-5)  # of full rank
    assert torch.allclose(layer(inputs), before(inputs), atol=1e-4)


def test_the_walk_reports_the_layers_numbers_and_its_error(tiny):
    before = tiny.targets()[NAME].weight.detach().clone()
    reports = {report.name: report for report in apply_or_plan(LowRank(rank=RANK, include=MLP), tiny).layers}
    values = torch.linalg.svdvals(before)  # Eckart and Young: what is lost are the values that go
    assert reports[NAME].error == pytest.approx(float(values[RANK:].norm() / values.norm()), rel=1e-4)
    assert (reports[NAME].weights, reports[NAME].zeros) == (RANK * (48 + 32), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_alone_give_the_counts_of_real_weights(tiny_source, dtype):
    real, meta = tiny_source.load(dtype, CPU), replace(tiny_source, weights="meta").load(dtype, CPU)
    for model in (real, meta):
        apply_or_plan(Magnitude(ratio=0.5, include=["*.self_attn.*"]), model)
        apply_or_plan(LowRank(rank=RANK, include=MLP), model)
    assert size(meta) == size(real)
    assert size(real)["weight_bytes"] == dtype.itemsize * PARAMETERS
    assert Cost().measure(meta, None).values == Cost().measure(real, None).values
    assert shapes_digest(meta) == shapes_digest(real)


def test_zeros_planned_in_a_layer_go_with_its_weights(tiny_source):
    real, meta = tiny_source.load(torch.float32, CPU), replace(tiny_source, weights="meta").load(torch.float32, CPU)
    for model in (real, meta):
        apply_or_plan(Magnitude(ratio=0.5), model)
        apply_or_plan(LowRank(rank=RANK, include=MLP), model)
    assert size(meta) == size(real)
    assert size(real)["parameters"] - size(real)["nonzero_parameters"] == ATTENTION_WEIGHTS // 2
    assert not [name for name in masked_layers(real.module) if ".mlp." in name]


def test_a_packed_layer_keeps_the_zeros_that_were_planned_for_it(tiny_source):
    meta = replace(tiny_source, weights="meta").load(torch.float32, CPU)
    apply_or_plan(Magnitude(ratio=0.5), meta)
    planned = dict(meta.zeros)
    apply_or_plan(RTN(bits=4, group_size=None), meta)
    assert meta.zeros == planned


READ = """
import sys, torch
torch.set_num_threads(1)
sys.path[:0] = {paths!r}
import low_rank, slimsweep
from reductions import logits
torch.save(logits(slimsweep.load({folder!r})), {out!r})
"""


def test_a_saved_model_gives_the_same_logits_in_a_new_process(factored, tmp_path, new_processes):
    assert not saved_model.save(factored, tmp_path / "saved")  # no plain from_pretrained
    assert (tmp_path / "saved" / PACKED_FILE).stat().st_size == size(factored)["checkpoint_bytes"]
    paths = [str(PROJECT / "tests" / "support"), str(PROJECT / "src")]
    code = READ.format(paths=paths, folder=str(tmp_path / "saved"), out=str(tmp_path / "logits.pt"))
    new_processes.run(code)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(factored))
    finally:
        torch.set_num_threads(threads)


def test_plain_transformers_refuses_a_saved_model_of_factors(factored, tmp_path):
    from transformers import AutoModelForCausalLM

    saved_model.save(factored, tmp_path / "saved")
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_factors_follow_the_dtype_that_a_model_is_loaded_in(factored, tmp_path):
    saved_model.save(factored, tmp_path / "saved")
    layer = slimsweep.load(tmp_path / "saved", torch.bfloat16).get_submodule(NAME)
    assert layer.a.dtype == layer.weight.dtype == layer.dtype == torch.bfloat16
    assert torch.equal(layer.a, factored.targets()[NAME].a.to(torch.bfloat16))


def test_the_check_of_a_saved_model_needs_no_weights(factored, tmp_path):
    from slimsweep.models.sources.local import LocalModel

    saved_model.save(factored, tmp_path / "saved")
    source = LocalModel(path=str(tmp_path / "saved"), cache_dir=str(tmp_path), weights="meta")
    found, expected = size(source.load(torch.float32, CPU)), size(factored)
    assert found.pop("compression_factor") == 0.5  # of the model as it was loaded, which has the factors already
    assert found == {name: value for name, value in expected.items() if name != "compression_factor"}


def test_a_manifest_names_the_package_of_a_foreign_form_and_is_not_obeyed(factored, tmp_path, monkeypatch):
    saved_model.save(factored, tmp_path / "saved")
    manifest = json.loads((tmp_path / "saved" / MANIFEST).read_text())
    entry = {"kind": "toy_low_rank", "settings": {"rank": RANK}, "package": "low_rank"}
    assert manifest["packed"][NAME] == entry and len(manifest["packed"]) == 6
    (tmp_path / "theirs.py").write_text("raise SystemExit('ran code that a file names')")
    monkeypatch.syspath_prepend(str(tmp_path))
    manifest["packed"][NAME] = entry | {"kind": "theirs", "package": "theirs"}
    (tmp_path / "saved" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=f"{NAME} is stored as theirs, a form of the package theirs, which was not"):
        slimsweep.load(tmp_path / "saved")
    manifest["packed"][NAME] = {"kind": "later", "settings": {}}
    (tmp_path / "saved" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="is stored as later, which this version of slimsweep does not have"):
        slimsweep.load(tmp_path / "saved")


def test_two_forms_cannot_have_one_word():
    assert kinds()["toy_low_rank"] is LowRankLinear
    with pytest.raises(TypeError, match=r"has the kind 'integer', which is that of slimsweep.linear.uniform.Integer"):
        type("Other", (LinearForm,), {"kind": "integer"})
    assert kinds()["integer"].__name__ == "IntegerLinear"


def test_a_digest_sees_every_number_of_the_factors(factored):
    before, copy = weights_digest(factored), factored.copy()
    assert weights_digest(copy) == before
    copy.targets()[NAME].b.data[3, 1] += 1e-3
    assert weights_digest(copy) != before == weights_digest(factored)


def test_neighbours_are_pruned_and_packed_around_the_factors(factored):
    factors = {name: layer.a.clone() for name, layer in linear_forms(factored.module).items()}
    skeleton = factored.copy()
    for technique in (Magnitude(ratio=0.5, exclude=MLP), RTN(bits=8, group_size=None, exclude=MLP)):
        assert technique.faults(skeleton) == []
        apply_or_plan(technique, factored)
    values = size(factored)
    assert values["parameters"] == PARAMETERS
    assert values["sparsity"] >= ATTENTION_WEIGHTS / 2 / (ATTENTION_WEIGHTS + FACTORS)
    assert {type(layer).__name__ for layer in factored.targets().values()} == {"IntegerLinear", "LowRankLinear"}
    assert all(torch.equal(factored.targets()[name].a, before) for name, before in factors.items())


@pytest.mark.parametrize(
    "technique",
    [Magnitude(ratio=0.5), RTN(bits=4, group_size=None), AWQ(group_size=None), LowRank(rank=2)],
    ids=lambda technique: type(technique).__name__,
)
def test_what_treats_single_weights_is_refused_in_one_sentence(factored, technique):
    (fault,) = technique.faults(factored)
    assert fault.startswith("no single weights can be removed or rounded in layers that are stored in another form: ")
    assert "model.layers.0-1.mlp.up_proj (toy_low_rank)" in fault and "self_attn" not in fault
    assert "exclude=[...]" in fault and "before the one that stores them so" in fault


def test_parts_cannot_be_cut_out_of_factors_but_whole_blocks_go(factored):
    (fault,) = Glu(ratio=0.25).faults(factored)
    assert fault.startswith("6 layers are stored as toy_low_rank, and whole parts can be cut out of plain weights only")
    assert Layers(ratio=0.5, protect_first=0, protect_last=0).faults(factored) == []


def test_a_changed_weight_for_factors_is_no_weight_of_theirs(factored):
    with pytest.raises(ModelError, match="stored as toy_low_rank, which has no single weights to change"):
        replace_weight(factored, NAME, torch.zeros(48, 32))


def test_half_rounds_factors_as_it_does_any_parameter(factored):
    expected = factored.targets()[NAME].a.to(torch.bfloat16)
    apply_or_plan(Half(dtype="bfloat16"), factored)
    layer = factored.targets()[NAME]
    assert torch.equal(layer.a, expected) and layer.dtype == layer.weight.dtype == torch.bfloat16
    assert size(factored)["weight_bytes"] == 2 * PARAMETERS


def test_scales_are_not_folded_where_a_reader_is_made_of_factors(tiny):
    apply_or_plan(LowRank(rank=RANK, include=["*.gate_proj"]), tiny)
    norm = tiny.module.model.layers[0].post_attention_layernorm.weight.clone()
    report = apply_or_plan(AWQ(group_size=None, exclude=["*.gate_proj"]), tiny, IDS)
    gate, up = "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"
    assert report.notes["not_scaled"][up] == f"{gate} is stored as toy_low_rank and not a target"
    assert torch.equal(tiny.module.model.layers[0].post_attention_layernorm.weight, norm)
    assert isinstance(tiny.targets()[gate], LowRankLinear) and isinstance(tiny.targets()[up], PackedLinear)


def test_gradients_pass_through_factors_to_the_weights_of_others(factored):
    name = "model.layers.0.self_attn.q_proj"
    found = fisher_diagonal(factored, [name], text_batch(IDS))[name]
    dense = factored.copy()
    for full, layer in linear_forms(factored.module).items():
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        plain.weight = torch.nn.Parameter(layer.weight, requires_grad=False)
        holder, _, last = full.rpartition(".")
        setattr(dense.module.get_submodule(holder), last, plain)
    assert torch.allclose(found, fisher_diagonal(dense, [name], text_batch(IDS))[name], rtol=1e-3, atol=1e-12)


def test_parts_of_a_form_are_no_layers_of_their_own(tiny):
    dense = parameter_count(tiny.module)
    form = adapt(tiny, NAME, RANK)
    assert isinstance(form, AdaptedLinear) and tiny.targets()[NAME] is form
    assert len(tiny.targets()) == len(linear_layers(tiny.module)) - 1 == 14  # and the head
    assert parameter_count(tiny.module) == dense + RANK * (48 + 32)
    assert form.weight_count == 48 * 32 + RANK * (48 + 32)
    layer_macs = {name: layer for name, layer in all_linears(tiny).items() if name.startswith(NAME)}
    assert list(layer_macs) == [NAME] and form.macs(10) == 10 * form.weight_count
    zeros = int((form.packed.weight == 0).sum())
    assert form.zero_count == zeros
    assert size(tiny)["parameters"] - size(tiny)["nonzero_parameters"] == zeros
    assert form.packed.weight_scale.dtype == torch.bfloat16  # codes keep their dtypes
    inputs = torch.randn(3, 32)
    assert torch.allclose(form(inputs), inputs @ form.weight.T, atol=1e-5)


def test_a_memory_plan_counts_factors_in_the_dtype_of_the_job(tiny_source):
    real, meta = tiny_source.load(torch.bfloat16, CPU), tiny_source.skeleton().copy()  # whose parameters are in fp32
    form = adapt(real, NAME, RANK)
    install_empty(meta, NAME, AdaptedLinear, form.settings)
    assert memory_plan._form_bytes(meta.module, 2) == memory_plan._form_bytes(real.module, 2) == form.stored_bytes


def test_an_adapter_on_packed_weights_is_saved_and_planned_as_what_it_is(tiny_source, tmp_path):
    real, meta = tiny_source.load(torch.bfloat16, CPU), replace(tiny_source, weights="meta").load(torch.bfloat16, CPU)
    form = adapt(real, NAME, RANK)
    install_empty(meta, NAME, AdaptedLinear, form.settings)
    real_size, planned = size(real), size(meta)
    zeros = {"nonzero_parameters", "sparsity", "bitmap_bytes"}  # of rounding, which no plan foresees
    assert {name: planned[name] for name in planned if name not in zeros} == {
        name: real_size[name] for name in planned if name not in zeros
    }
    codes_and_scales = 48 * 32 + 48 * 2 + 48 + 16  # a byte a code, a scale and a zero-point a row, the shape
    assert form.stored_bytes == codes_and_scales + 2 * RANK * (48 + 32)
    saved_model.save(real, tmp_path / "saved")
    assert torch.equal(logits(slimsweep.load(tmp_path / "saved")), logits(real))
    wider = slimsweep.load(tmp_path / "saved", torch.float32).get_submodule(NAME)
    assert wider.update.a.dtype == wider.packed.dtype == torch.float32
    assert wider.packed.weight_scale.dtype == torch.bfloat16  # stays what it is


def test_the_stage_cache_keeps_and_restores_a_foreign_form(slimsweep, tmp_path):
    words = (*OWN, *(word for word in SMALL if word != "cache=off"), "dtype=float32", f"cache_dir={tmp_path / 'kept'}")
    words += ("cache=on", "technique=[low_rank,magnitude]", "ratio=0.5", "technique.magnitude.exclude=['*.mlp.*']")
    first = record_at(slimsweep(*words))
    again = record_at(slimsweep(*words, f"outputs_dir={tmp_path / 'again'}"))
    assert [stage["restored"] for stage in first["stages"]] == [False, False]
    assert [stage["restored"] for stage in again["stages"]] == [True, True]
    assert again["weights_digest"] == first["weights_digest"]
    same = ("parameters", "nonzero_parameters", "gmacs", "checkpoint_bytes", "perplexity_movie_reviews")
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert first["stages"][0]["weights"] == first["stages"][0]["layers"] // 3 * 4 * _mlp_widths(first)


def test_zeros_of_a_product_are_no_removed_weights(factored, slimsweep, tmp_path):
    factored.targets()[NAME].b.data[:3] = 0  # three rows of the product
    saved_model.save(factored, tmp_path / "saved")
    words = ["model=local", f"model.path={tmp_path / 'saved'}", *SMALL[1:], "dtype=float32"]
    words += ["keep_zeros=true", "technique=magnitude", "ratio=0.5", "technique.magnitude.exclude=['*.mlp.*']"]
    answer = slimsweep(*words, "save_model=true")
    assert answer.status == 0, answer.err
    assert record_at(answer)["parameters"] == PARAMETERS
    masks = load_file(Path(answer.out.strip().splitlines()[-1]).parent / "model" / MASKS_FILE)
    assert len(masks) == 8 and not [name for name in masks if ".mlp." in name]


def _mlp_widths(record: dict) -> int:
    """Inputs and outputs of a block's three MLP layers together."""
    shape = record["config"]["model"]["shape"]
    return 3 * (shape["hidden_size"] + shape["intermediate_size"])


def test_the_command_refuses_single_weights_of_factors_before_anything_loads(slimsweep, monkeypatch):
    monkeypatch.setattr("slimsweep.models.sources.base.ModelSource.load", None)
    answer = slimsweep(*OWN, *SMALL, "technique=[low_rank,magnitude]", "ratio=0.5")
    assert answer.status == 1
    assert "technique.magnitude: no single weights can be removed or rounded in layers" in answer.err


def test_a_memory_plan_counts_factors_as_what_they_take(tiny_source):
    stage = SimpleNamespace(name="low_rank", technique=LowRank(rank=RANK, include=MLP))
    rest = {"calibration": None, "metrics": {}, "seed": 0, "memory_budget": 2**31, "needs_calibration": False}
    rest |= {"resolved_dtype": "float32", "resolved_device": "cpu"}
    parts = memory_plan.plan(SimpleNamespace(model=replace(tiny_source, weights="meta"), stages=(stage,), **rest))
    assert Part("packed or factored weights", 4 * FACTORS) in parts


@pytest.mark.parametrize("name", ["llama", "gpt2"])  # nn.Linear and Conv1D, which lies [in out]
def test_plain_layers_answer_the_protocol_alike(name, tmp_path):
    model = random_model(name, str(tmp_path)).load(torch.bfloat16, CPU)
    layer = model.targets()["model.layers.0.mlp.up_proj" if name == "llama" else "transformer.h.0.mlp.c_fc"]
    rows = 48 if name == "llama" else 4 * 32
    linear.weight_2d(layer)[:3, 1:] = 0
    assert linear.layer_shape(layer) == linear.weight_2d(layer).shape == (rows, 32)
    assert (linear.weight_count(layer), linear.zero_count(layer)) == (32 * rows, 3 * 31)
    assert (linear.macs(layer, 10), linear.stored_bytes(layer)) == (10 * 32 * rows, 2 * 32 * rows)
    assert linear.value_bits(layer) == linear.bits_per_weight(layer) == 16
    assert linear.compute_dtype(layer) == torch.bfloat16
    assert linear.is_plain(layer) and linear.is_linear(layer) and linear.has_single_weights(layer)


def test_a_form_takes_the_place_of_another(tiny_source):
    meta = replace(tiny_source, weights="meta").load(torch.bfloat16, CPU)
    install_empty(meta, NAME, LowRankLinear, {"rank": RANK})
    install_empty(meta, NAME, LowRankLinear, {"rank": 2})
    layer = meta.targets()[NAME]
    assert layer.weight_count == 2 * (48 + 32) and layer.a.dtype == layer.dtype == torch.bfloat16
