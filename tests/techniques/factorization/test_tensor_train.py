"""The embedding as a tensor train: counts by hand, bounds, ties, reading back, and stages after it."""

import json
from pathlib import Path

import pytest
import torch
from conftest import CACHE, TINY_SHAPE
from contexts import text_context
from family_shapes import DECODERS, ENCODERS, random_model
from reductions import logits, loud
from small_jobs import SMALL, record_at
from tiny_training import FAST, training_context
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from slimsweep.evaluation.cost import Cost
from slimsweep.evaluation.size import Size
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.models.sources.random import RandomModel
from slimsweep.models.storage import saved_model
from slimsweep.pipeline import memory_plan
from slimsweep.techniques.factorization.tensor_train import TensorTrain
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.half import Half
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.structured.heads import Heads
from slimsweep.techniques.structured.layers import Layers
from slimsweep.techniques.training.distill import Distill
from slimsweep.techniques.training.finetune import Finetune
from slimsweep.techniques.training.qat import QAT

CPU = torch.device("cpu")
IDS = torch.randint(0, 258, (2, 16), generator=torch.Generator().manual_seed(0))
NAME = "model.embed_tokens"
DENSE = 258 * 32
# 258 rows in bases 4, 5, 13 (2 of padding) and 32 columns in bases 2, 4, 4: cores of 8, 20 and 52 numbers for each pair
# of ranks. Half of the table is 4,128 numbers; ranks 8 and 19 take 64 + 8 * 20 * 19 + 52 * 19 of them.
HALF = 64 + 8 * 20 * 19 + 52 * 19
LOOK_UP = 2 * 8 * 4 * 19 + 8 * 19 * 4
REBUILD = 8 * 8 * 20 * 19 + 160 * 19 * 52


def source(is_tied: bool) -> RandomModel:
    return RandomModel(name="tiny", shape=TINY_SHAPE | {"tie_word_embeddings": is_tied}, cache_dir=str(CACHE))


def applied(model: LanguageModel, *techniques) -> LanguageModel:
    for technique in techniques:
        assert technique.faults(model) == []
        technique.apply(model, text_context(IDS))
    return model


@torch.no_grad()
def outputs(module, ids=IDS):
    return module(input_ids=ids).logits


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def is_tied(request):
    return request.param


@pytest.fixture
def model(is_tied):
    return source(is_tied).load(torch.float32, CPU)


def test_parameters_and_bytes_are_those_of_the_cores(model, is_tied):
    before = parameter_count(model.module)
    values = Size().measure(applied(model, TensorTrain(ratio=0.5)), None).values
    assert values["parameters"] == before - DENSE + HALF
    assert values["weight_bytes"] == 4 * values["parameters"]
    is_form = [type(model.module.get_submodule(name)).__name__ for name in (NAME, "lm_head")]
    assert is_form == ["TensorTrainEmbedding", "TensorTrainHead" if is_tied else "Linear"]


def test_a_plan_of_memory_counts_shared_cores_once(tiny):
    assert memory_plan._form_bytes(applied(tiny, TensorTrain(ratio=0.5)).module, 2) == 2 * HALF


def test_gmacs_are_the_closed_form_and_torchs_count(model, is_tied):
    tokens, dense = 64, Cost(tokens=64).measure(model, None).values["gmacs"] * 1e9
    applied(model, TensorTrain(ratio=0.5))
    counted = round(Cost(tokens=tokens).measure(model, None).values["gmacs"] * 1e9)
    assert counted == round(dense) + tokens * LOOK_UP + (REBUILD if is_tied else 0)
    model.module.set_attn_implementation("eager")  # the counter misses fused attention on a CPU
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.module(input_ids=torch.arange(tokens)[None])
    assert counter.get_total_flops() / 2 - tokens * 4 == counted  # positions times rotary frequencies


@pytest.mark.parametrize("technique", [TensorTrain(ratio=0.5), TensorTrain(ratio=0.2, factors=2)])
def test_a_plan_leaves_the_shapes_that_applying_leaves(model, is_tied, technique):
    skeleton = source(is_tied).skeleton().copy()
    planned = technique.plan(skeleton)
    report = technique.apply(model, text_context(IDS))
    shapes = [{name: part.shape for name, part in one.module.state_dict().items()} for one in (skeleton, model)]
    assert shapes[0] == shapes[1] and skeleton.is_meta and not model.is_meta
    assert [(layer.name, layer.weights) for layer in planned.layers] == [(NAME, report.layers[0].weights)]
    assert planned.notes["ranks"] == report.notes["ranks"]
    assert report.notes["tied_heads"] == (["lm_head"] if is_tied else [])
    assert skeleton.dtype == model.dtype == torch.float32


def test_the_forward_is_that_of_the_rebuilt_table(model, is_tied):
    dense = model.copy()
    applied(model, TensorTrain(ratio=0.5))
    table = model.module.get_submodule(NAME).weight
    rebuilt = dense.module.get_submodule(NAME).weight
    assert not torch.allclose(rebuilt, table, atol=1e-3)
    rebuilt.data.copy_(table)  # the head's too, where it is tied
    torch.testing.assert_close(outputs(model.module), outputs(dense.module), rtol=1e-4, atol=1e-5)
    hidden = model.hidden_states({"input_ids": IDS})
    torch.testing.assert_close(model.logits(hidden[:, -3:]), outputs(dense.module)[:, -3:], rtol=1e-4, atol=1e-5)


def test_an_error_near_zero_takes_the_full_rank_and_is_exact(model):
    dense = outputs(model.module)
    report = TensorTrain(ratio=0.5, error=1e-6).apply(model, text_context(IDS))
    assert report.notes["ranks"] == [8, 52] and report.notes["error"] < 1e-6
    torch.testing.assert_close(outputs(model.module), dense, rtol=1e-4, atol=1e-5)
    assert "no fewer than the dense table's 8256" in report.notes["warning"]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 0.3), (torch.float32, 0.7), (torch.bfloat16, 0.3)])
def test_an_error_bound_is_met_in_the_dtype_that_is_stored(tiny_source, dtype, error):
    model = tiny_source.load(dtype, CPU)
    table = model.module.get_submodule(NAME).weight.float()
    report = TensorTrain(ratio=0, error=error).apply(model, text_context(IDS))
    found = float((model.module.get_submodule(NAME).weight.float() - table).norm() / table.norm())
    assert report.notes["error"] == report.layers[0].error == pytest.approx(found, rel=1e-5)
    assert 0.5 * error < found <= error


@pytest.mark.parametrize("error", [0.5, 1e-6])
def test_the_plan_of_an_error_has_no_more_numbers_than_the_dense_table(tiny_source, tiny, error):
    skeleton, technique = tiny_source.skeleton().copy(), TensorTrain(ratio=None, error=error)
    plan, report = technique.plan(skeleton), technique.apply(tiny, text_context(IDS))
    assert plan.layers[0].weights <= DENSE and plan.notes["parameters"] == plan.layers[0].weights
    assert "depend on the weights" in plan.notes["plan"] and "plan" not in report.notes
    # Ranks 8 and r have 64 + 8 * 20 * r + 52 * r numbers: 8,120 for r = 38 and 8,332 for r = 39.
    assert plan.notes["ranks"] == [8, 38]


def test_ratio_zero_leaves_the_embedding_as_it_is(tiny_source, tiny):
    before = {name: tensor.clone() for name, tensor in tiny.module.state_dict().items()}
    skeleton, technique = tiny_source.skeleton().copy(), TensorTrain(ratio=0)
    assert technique.faults(skeleton) == []
    planned, report = technique.plan(skeleton), technique.apply(tiny, text_context(IDS))
    for model in (skeleton, tiny):
        assert model.module.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.module.state_dict().items())
    assert planned.layers[0].weights == report.layers[0].weights == DENSE and report.layers[0].error == 0
    assert planned.notes == report.notes == {"left_dense": [NAME], "dense_parameters": DENSE, "parameters": DENSE}


def test_an_error_bound_reads_no_ratio():
    assert TensorTrain(ratio=0.5, error=0.1) == TensorTrain(ratio=None, error=0.1)
    with pytest.raises(ValueError, match="ratio=None"):
        TensorTrain(ratio=None)


TRAINERS = {
    "finetune": Finetune(**FAST),
    "distill": Distill(losses={"soft": 1.0}, **FAST),
    "qat": QAT(bits=4, group_size=16, **FAST),
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_cores_train_in_bfloat16(trainer, is_tied):
    model = source(is_tied).load(torch.bfloat16, CPU)
    base = model.copy()
    applied(model, TensorTrain(ratio=0.5))
    cores = [core.clone() for core in model.module.get_submodule(NAME).table.cores]
    report = TRAINERS[trainer].apply(model, training_context(model, teacher=lambda: base))
    training, trained = report.notes["training"], model.module.get_submodule(NAME).table.cores
    assert training["loss_end"] < training["loss_start"]
    assert all(core.dtype == torch.bfloat16 for core in trained)
    assert not any(map(torch.equal, cores, trained))
    assert outputs(model.module, IDS.clamp(max=31)).isfinite().all()


READ = """
import json, sys, torch, slimsweep
ids, found = torch.tensor(json.loads(sys.argv[1])), {}
for folder in sys.argv[2:]:
    module = slimsweep.load(folder)
    with torch.no_grad():
        torch.save(module(input_ids=ids).logits, f"{folder}/logits.pt")
    found[folder] = sum(tensor.numel() for tensor in module.parameters())
print(json.dumps(found))
"""


def test_a_new_process_reads_equal_logits(tmp_path, new_processes):
    models = {str(tmp_path / word): source(word == "tied").load(torch.float32, CPU) for word in ("tied", "untied")}
    for folder, model in models.items():
        assert not saved_model.save(applied(model, TensorTrain(ratio=0.5), RTN(bits=8, group_size=16)), Path(folder))
        sizes = Size().measure(model, None).values
        assert (Path(folder) / "packed.safetensors").stat().st_size == sizes["checkpoint_bytes"]
    printed = new_processes.run(READ, json.dumps(IDS.tolist()), *models)
    parameters = {folder: sum(part.numel() for part in model.module.parameters()) for folder, model in models.items()}
    assert json.loads(printed.splitlines()[-1]) == parameters
    for folder, model in models.items():
        assert torch.equal(torch.load(f"{folder}/logits.pt"), outputs(model.module))


def test_a_read_model_has_one_table_and_is_saved_again(tiny, tmp_path):
    applied(tiny, TensorTrain(ratio=0.5))
    saved_model.save(tiny, tmp_path / "first")
    module = saved_model.load(tmp_path / "first", dtype=torch.bfloat16)
    assert module.lm_head.table is module.model.embed_tokens.table
    assert {tensor.dtype for tensor in module.parameters()} == {torch.bfloat16}
    again = LanguageModel(module=module, family=tiny.family, task=tiny.task)
    saved_model.save(again, tmp_path / "second")
    assert torch.equal(outputs(saved_model.load(tmp_path / "second")), outputs(module))


def test_later_stages_treat_the_blocks_and_leave_the_cores(model):
    applied(model, TensorTrain(ratio=0.5))
    cores = [core.clone() for core in model.module.get_submodule(NAME).table.cores]
    applied(model, Magnitude(ratio=0.5), RTN(bits=4, group_size=16))
    assert all(map(torch.equal, cores, model.module.get_submodule(NAME).table.cores))
    assert outputs(model.module).isfinite().all()
    applied(model, Layers(ratio=0.5, protect_first=0, protect_last=0), Half())
    assert model.dtype == torch.bfloat16 and outputs(model.module).isfinite().all()


@pytest.mark.parametrize("family", DECODERS | ENCODERS)
def test_every_family_of_one_stack_keeps_its_function_at_full_rank(family, tmp_path):
    model = loud(family, str(tmp_path))
    dense = logits(model)
    applied(model, TensorTrain(ratio=0, error=1e-6))
    assert (logits(model) - dense).norm() / dense.norm() < 1e-4
    saved_model.save(model, tmp_path / "saved")
    assert torch.equal(logits(saved_model.load(tmp_path / "saved")), logits(model))


def test_what_cannot_become_a_train_is_refused(tiny, tmp_path):
    (fault,) = TensorTrain(ratio=0.5).faults(random_model("t5", str(tmp_path)).skeleton())
    assert "treats models of one stack" in fault
    (fault,) = TensorTrain(ratio=0.995).faults(tiny)
    assert "leaves 41 parameters of the embedding, and 3 cores of rank 1 have 80" in fault
    half = source(True).load(torch.bfloat16, CPU)
    (fault,) = TensorTrain(ratio=0.5, error=0.01).faults(half)
    assert "3 cores in bfloat16 may be off by 0.012 by rounding alone" in fault
    applied(tiny, TensorTrain(ratio=0.5))
    (fault,) = TensorTrain(ratio=0.5).faults(tiny)
    assert "stored as tensor_train already" in fault
    (fault,) = Heads(ratio=0.5).faults(tiny)
    assert "put this stage before" in fault


@pytest.mark.parametrize(
    ("knobs", "named"),
    [({"ratio": 1}, "ratio=1"), ({"ratio": 0.5, "error": 0}, "error=0"), ({"ratio": 0.5, "factors": 1}, "factors=1")],
)
def test_bad_values_are_named(knobs, named):
    with pytest.raises(ValueError, match=named):
        TensorTrain(**knobs)


def test_a_job_records_the_ranks_and_the_error(slimsweep):
    answer = slimsweep(*SMALL, "technique=[tensor_train,magnitude]", "ratio=0.5")
    assert answer.status == 0, answer.err
    first, second = record_at(answer)["stages"]
    assert first["notes"]["error"] > 0 and len(first["notes"]["ranks"]) == 2
    assert second["zeros"] > 0


def test_the_trained_model_tells_stories_at_nine_tenths_of_its_table(stories260k):
    ids = torch.tensor([[1, 403, 407, 261, 378, 432, 383, 286, 261, 410, 286, 429]])
    dense = functional.log_softmax(outputs(stories260k.module, ids), dim=-1)
    report = TensorTrain(ratio=0.1).apply(stories260k, text_context(ids))
    assert report.notes["rows"] == [8, 8, 8] and report.notes["columns"] == [4, 4, 4]
    assert 0.85 * 512 * 64 < report.layers[0].weights <= 0.9 * 512 * 64
    after = functional.log_softmax(outputs(stories260k.module, ids), dim=-1)
    assert (dense.exp() * (dense - after)).sum(dim=-1).mean() < 1
    # Cores 32 x r1, r1 x 32 x r2 and r2 x 32 with one bound r: 1,024 r^2 / 32 + 64 r numbers.
    assert report.notes["ranks"] == [29, 29] and report.layers[0].weights == 32 * 29**2 + 64 * 29
