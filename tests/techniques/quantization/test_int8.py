import pytest
import torch
from planning import apply_or_plan
from restatements import perplexity

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.models.batches import text_batch
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.int8 import Int8

CPU = torch.device("cpu")


def test_golden_output_of_version_1():
    assert Int8.version == 1
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    layer = Int8().compress_layer(weight)
    assert layer.weight_codes.tolist() == [[-127, 51, -51, 127, 25, -76], [-51, 127, 25, -76, 102, 0]]
    assert layer.weight_absmax.tolist() == [1.25, 1.25]
    # 8 is apart; 1, -2, 0.5 and 3 are 42, -85, 21 and 127 of 127ths of 3: -20392 x 3.75 / 127^2 + 10 is the first.
    found = layer(torch.tensor([[1.0, -2.0, 0.5, 8.0, 0.0, 3.0]]))
    assert found.tolist()[0] == pytest.approx([5.25882, -8.87007], abs=1e-4)


@pytest.mark.parametrize("threshold", [-1, True, float("inf"), float("nan")])
def test_a_threshold_that_is_no_magnitude_is_named(threshold):
    with pytest.raises(ValueError, match=r"threshold=.*a number of at least 0"):
        Int8(threshold=threshold)


def test_a_whole_number_and_its_float_are_one_experiment():
    assert repr(Int8(threshold=6)) == repr(Int8())


def test_the_plan_on_shapes_has_the_bytes_of_real_weights(tiny_source, tiny):
    plan = tiny_source.skeleton().copy()
    reports = [apply_or_plan(Int8(), model) for model in (plan, tiny)]
    planned, real = (Size().measure(model, None).values for model in (plan, tiny))
    names = ("parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes", "compression_factor")
    assert [planned[name] for name in names] == [real[name] for name in names]
    # Two blocks of q and o 32 x 32, k and v 16 x 32, gate and up 48 x 32, down 32 x 48: a byte a weight, 4 a row.
    weights, rows = 2 * (2 * 1024 + 2 * 512 + 3 * 1536), 2 * (2 * 32 + 2 * 16 + 2 * 48 + 32)
    assert reports[1].notes["bits_per_weight"] == pytest.approx(8 * (weights + 4 * rows) / weights)


def test_pruned_weights_stay_zeros_before_and_after(tiny):
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    zeros = {name: weight_2d(layer) == 0 for name, layer in tiny.targets().items()}
    for layer in Int8().apply(tiny, StageContext()).layers:
        found = weight_2d(tiny.targets()[layer.name])
        assert bool((found[zeros[layer.name]] == 0).all()) and layer.zeros == int((found == 0).sum())
        assert 0 < layer.error < 0.01
    Magnitude(ratio=0.75).apply(tiny, StageContext())
    for layer in packed_layers(tiny.module).values():
        assert layer.kind == "llm_int8" and int((layer.dequantized() == 0).sum()) >= 0.75 * layer.weight.numel()


@torch.no_grad()
def test_keeping_outliers_apart_loses_less_on_a_trained_model(stories260k_source, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:20_000]
    models = {name: stories260k_source.load(torch.float32, CPU) for name in (None, 3.0, 0.0)}
    ids = torch.tensor(models[None].tokenizer(text)["input_ids"][: 16 * 256]).view(16, 256)
    for threshold in (3.0, 0.0):
        Int8(threshold=threshold).apply(models[threshold], StageContext())
    found = {name: perplexity(model.module, ids) for name, model in models.items()}
    assert abs(found[3.0] - found[None]) < abs(found[0.0] - found[None]) < 0.05 * found[None]


@torch.no_grad()
def test_the_first_blocks_of_the_embedded_model_keep_their_outputs(smollm2):
    model = smollm2.load(torch.bfloat16, CPU)
    blocks = model.module.base_model
    del blocks.layers[2:]
    ids = torch.arange(100, 164)[None]
    before = model.hidden_states(text_batch(ids)).float()
    report = Int8().apply(model, StageContext())
    assert len(report.layers) == 14 and report.notes["packing_error"]["largest"] < 0.03
    after = model.hidden_states(text_batch(ids)).float()
    assert after.isfinite().all() and 0 < float((after - before).norm() / before.norm()) < 0.05
