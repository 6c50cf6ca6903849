import json
import logging
from pathlib import Path

import pytest
import torch
from planning import apply_or_plan
from restatements import perplexity

import slimsweep
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.models.storage.saved_model import save
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.half import Half
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")
LAYER = "model.layers.1.mlp.down_proj"


def test_golden_output_of_version_1(tiny):
    assert Half.version == 1
    weight = weight_2d(tiny.targets()[LAYER])
    weight[0, :5] = torch.tensor([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.14159, 1e-30])
    Half().apply(tiny, StageContext())
    found = weight_2d(tiny.targets()[LAYER])
    # 8 bits of precision: 1 + 1/256 is a tie and goes to the even 1, 1 + 3/256 to 1 + 4/256.
    assert found.dtype == torch.bfloat16
    assert found[0, :5].tolist() == [1, 1, 1.015625, -3.140625, torch.tensor(1e-30).bfloat16().item()]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_every_parameter_is_narrow_and_nothing_else_changes(tiny, name):
    before = {path: parameter.clone() for path, parameter in tiny.module.named_parameters()}
    buffers = {path: buffer.clone() for path, buffer in tiny.module.named_buffers()}
    Half(dtype=name).apply(tiny, StageContext())
    dtype = getattr(torch, name)
    after = dict(tiny.module.named_parameters())
    assert list(after) == list(before) and tiny.dtype == tiny.config.dtype == dtype
    for path, parameter in after.items():
        assert parameter.dtype == dtype and torch.equal(parameter, before[path].to(dtype)), path
    for path, buffer in tiny.module.named_buffers():  # rotary frequencies
        assert buffer.dtype == torch.float32 and torch.equal(buffer, buffers[path])
    assert tiny.module.lm_head.weight is tiny.module.model.embed_tokens.weight
    assert tiny.logits(tiny.hidden_states(text_batch(torch.arange(9)[None]))).dtype == dtype


def test_what_moved_and_which_zeros_appear_is_measured(tiny, caplog):
    weight = weight_2d(tiny.targets()[LAYER])
    weight.fill_(0.5)
    weight[0, 0], weight[0, 1], weight[1, :7] = 2**-26, 1.0004883, 0  # below half of fp16's least; half a step
    report = Half(dtype="float16").apply(tiny, StageContext())
    entry = {layer.name: layer for layer in report.layers}[LAYER]
    assert report.notes["rounded_to_zero"] == {f"{LAYER}.weight": 1}
    assert entry.zeros == 8 == int((weight_2d(tiny.targets()[LAYER]) == 0).sum()) and entry.weights == 32 * 48
    assert "rounded 1 nonzero parameters to zero" in caplog.text


def test_the_largest_movement_is_named(tiny):
    path = f"{LAYER}.weight"
    parameter = tiny.module.get_parameter(path)
    for other in tiny.module.parameters():
        other.data.fill_(1.0)
    parameter.data.fill_(1 + 2**-9)  # rounds to 1
    notes = Half().apply(tiny, StageContext()).notes
    expected = 2**-9 / (1 + 2**-9)
    assert notes["rounding_error"]["parameter"] == path
    assert notes["rounding_error"]["largest"] == pytest.approx(expected, rel=1e-4)
    assert notes["rounding_error"]["mean"] == pytest.approx(expected / len(list(tiny.module.parameters())), rel=1e-4)


def test_what_fp16_cannot_hold_is_refused_by_name_and_nothing_is_changed(tiny):
    names = [f"{LAYER}.weight", "model.norm.weight"]
    for name in names:
        tiny.module.get_parameter(name).data.view(-1)[3] = -65520.0  # rounds to infinity; 65519 would not
    before = {name: parameter.clone() for name, parameter in tiny.module.named_parameters()}
    with pytest.raises(ModelError) as found:
        Half(dtype="float16").apply(tiny, StageContext())
    assert all(name in str(found.value) for name in names) and "65504" in str(found.value)
    assert "Choose dtype=bfloat16" in str(found.value) and "q_proj" not in str(found.value)
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny.module.named_parameters())
    for name in names:
        tiny.module.get_parameter(name).data.view(-1)[3] = 65519.0
    Half(dtype="float16").apply(tiny, StageContext())
    assert float(tiny.module.get_parameter("model.norm.weight")[3]) == 65504


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_narrow_model_stays_as_it_is_and_the_report_and_log_say_so(tiny_source, name, caplog):
    model = tiny_source.load(torch.bfloat16, CPU)
    before = {path: parameter.clone() for path, parameter in model.module.named_parameters()}
    with caplog.at_level(logging.WARNING):
        report = Half(dtype=name).apply(model, StageContext())
    assert "changed nothing: the model is stored in bfloat16 already" in report.notes["warning"]
    assert report.notes["warning"] in caplog.text and len(report.layers) == 14
    for path, parameter in model.module.named_parameters():
        assert parameter.dtype == torch.bfloat16 and torch.equal(parameter, before[path])


def test_one_wide_parameter_makes_the_whole_model_change(tiny_source):
    model = tiny_source.load(torch.bfloat16, CPU)
    model.module.model.norm.weight.data = model.module.model.norm.weight.data.float()
    Half(dtype="float16").apply(model, StageContext())
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float16}


@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16])
def test_the_plan_on_shapes_has_the_bytes_of_real_weights(tiny_source, wide, caplog):
    plan = tiny_source._wrap(tiny_source._meta(wide), torch.device("meta"))
    real = tiny_source.load(wide, CPU)
    planned_report, real_report = (apply_or_plan(Half(), model) for model in (plan, real))
    assert plan.dtype == real.dtype == torch.bfloat16
    planned, found = (Size().measure(model, None).values for model in (plan, real))
    names = ("parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes", "compression_factor")
    assert [planned[name] for name in names] == [found[name] for name in names]
    assert found["weight_bytes"] == 2 * found["parameters"] and found["compression_factor"] == 1
    assert ("warning" in planned_report.notes) == ("warning" in real_report.notes) == (wide == torch.bfloat16)
    assert caplog.text.count("changed nothing") == (wide == torch.bfloat16)  # not for the plan


def test_zeros_stay_and_planned_ones_are_reported(tiny, tiny_source):
    plan = tiny_source.skeleton().copy()
    reports = []
    for model in (plan, tiny):
        apply_or_plan(Magnitude(ratio=0.5), model)
        reports.append(apply_or_plan(Half(), model))
    assert [layer.zeros for layer in reports[0].layers] == [layer.zeros for layer in reports[1].layers]
    assert all(layer.zeros == layer.weights // 2 for layer in reports[1].layers)


@pytest.mark.parametrize("quantizer", [NF4(), RTN(group_size=16)])
def test_packed_layers_keep_what_they_store_and_compute_in_the_new_dtype(tiny, quantizer):
    quantizer.apply(tiny, StageContext())
    layers = tiny.targets()
    layers[LAYER].bias = torch.nn.Parameter(torch.full((32,), 0.3), requires_grad=False)
    stored = {name: {key: value.clone() for key, value in layer.storage.items()} for name, layer in layers.items()}
    Half().apply(tiny, StageContext())
    for name, layer in layers.items():
        assert all(torch.equal(value, stored[name][key]) for key, value in layer.storage.items())
        assert all(value.dtype == stored[name][key].dtype for key, value in layer.storage.items())
        assert layer.weight.dtype == torch.bfloat16
    assert layers[LAYER].bias.dtype == torch.bfloat16 and not tiny.module.model.norm.weight.requires_grad
    assert tiny.hidden_states(text_batch(torch.arange(9)[None])).dtype == torch.bfloat16


def test_quantizing_after_it_computes_in_the_narrow_dtype(tiny):
    Half().apply(tiny, StageContext())
    NF4().apply(tiny, StageContext())
    assert {layer.weight.dtype for layer in tiny.targets().values()} == {torch.bfloat16}


def test_a_saved_model_loads_plainly_in_its_dtype(tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    Half(dtype="float16").apply(tiny, StageContext())
    assert save(tiny, tmp_path / "model")
    ids = torch.arange(20)[None]
    expected = tiny.module(input_ids=ids).logits
    assert torch.equal(slimsweep.load(tmp_path / "model")(input_ids=ids).logits, expected)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert plain.dtype == torch.float16 and torch.equal(plain.eval()(input_ids=ids).logits, expected)


def test_a_model_whose_blocks_rest_in_host_memory_changes_too(tiny_source, tiny):
    offloaded = tiny_source.load(torch.float32, CPU, offload=True)
    ids = torch.arange(9)[None]
    for model in (offloaded, tiny):
        Half().apply(model, StageContext())
    assert torch.equal(offloaded.hidden_states(text_batch(ids)), tiny.hidden_states(text_batch(ids)))


def test_a_job_measures_its_speed_beside_the_wide_model(slimsweep):
    small = ("model=random", "evaluation.context_tokens=64", "evaluation.max_windows=2", "evaluation.tasks=[]")
    answer = slimsweep(*small, "tracker=none", "technique=half", "dtype=float32")
    assert answer.status == 0, answer.err
    record = json.loads(Path(answer.out.strip().splitlines()[-1]).read_text())
    assert record["speedup_prefill"] > 0 and record["speedup_decode"] > 0
    assert record["compression_factor"] == 1 and record["weight_bytes"] == 2 * record["parameters"]
    assert record["stages"][0]["notes"]["rounding_error"]["mean"] > 0


def test_a_dtype_that_is_not_narrow_is_named():
    with pytest.raises(ValueError, match="dtype='float32': give bfloat16 or float16"):
        Half(dtype="float32")


@torch.no_grad()
def test_a_trained_model_hardly_changes(stories260k_source, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:20_000]
    found = {}
    for technique in (None, Half(dtype="float16"), Half()):
        model = stories260k_source.load(torch.float32, CPU)
        ids = torch.tensor(model.tokenizer(text)["input_ids"][: 16 * 256]).view(16, 256)
        errors = [technique.apply(model, StageContext()).notes["rounding_error"]["mean"]] if technique else [0.0]
        found[technique and technique.dtype] = (perplexity(model.module, ids), errors[0])
    assert 0 < found["float16"][1] < 2**-11 < found["bfloat16"][1] < 2**-8
    assert found["float16"][0] == pytest.approx(found[None][0], rel=0.001)
    assert found["bfloat16"][0] == pytest.approx(found[None][0], rel=0.01)


def test_the_first_block_of_the_embedded_model_comes_back_bit_for_bit(smollm2):
    model = smollm2.load(torch.bfloat16, CPU)
    del model.module.base_model.layers[1:]
    published = {name: parameter.clone() for name, parameter in model.module.named_parameters()}
    for parameter in model.module.parameters():
        parameter.data = parameter.data.float()
    report = Half().apply(model, StageContext())
    assert report.notes["rounding_error"]["largest"] == 0 and not report.notes["rounded_to_zero"]
    for name, parameter in model.module.named_parameters():
        assert parameter.dtype == torch.bfloat16 and torch.equal(parameter, published[name])


def test_packed_layers_whose_weights_fp16_cannot_hold_are_named(tiny):
    name = "model.layers.0.mlp.up_proj"
    tiny.module.get_submodule(name).weight.data[0, 0] = 1e6
    RTN(bits=8, group_size=None).apply(tiny, StageContext())
    with pytest.raises(ModelError, match=name):
        Half(dtype="float16").apply(tiny, StageContext())
