import pytest
import torch
from restatements import perplexity

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.techniques.quantization.dynamic_int8 import DynamicInt8

CPU = torch.device("cpu")


def test_golden_output_of_version_1():
    assert DynamicInt8.version == 1
    weight = torch.tensor([[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(6)] for row in range(2)])
    found = DynamicInt8().compress_layer(weight)
    assert found.weight_codes.tolist() == [[-127, 51, -51, 127, 25, -76], [-51, 127, 25, -76, 102, 0]]
    assert found.weight_scale.flatten().tolist() == [161 / 2**14] * 2  # 2.5 / 255 in bf16


def test_every_targeted_layer_is_stored_in_8_bits_and_zeros_stay(tiny):
    for layer in tiny.targets().values():
        weight_2d(layer)[:, ::3] = 0
    zeros = {name: weight_2d(layer) == 0 for name, layer in tiny.targets().items()}
    report = DynamicInt8(exclude=["*.down_proj"]).apply(tiny, StageContext())
    packed = packed_layers(tiny.module)
    assert set(packed) == {name for name in zeros if "down_proj" not in name}
    assert all(torch.all(layer.dequantized()[zeros[name]] == 0) for name, layer in packed.items())
    assert report.notes["bits_per_weight"] == 8 + 16 / 32  # all inputs are 32 wide
    assert report.notes["packing_error"]["mean"] < 0.01


def test_the_plan_equals_what_weights_give(tiny_source, tiny):
    DynamicInt8().apply(tiny, StageContext())
    planned = tiny_source.skeleton().copy()
    DynamicInt8().plan(planned)
    found, plan = (Size().measure(model, None).values for model in (tiny, planned))
    for field in ("parameters", "weight_bytes", "checkpoint_bytes"):
        assert found[field] == plan[field] > 0, field
    # A scale of 16 bits for each row: 192 rows of 32 inputs and 32 rows of 48 in a block.
    assert found["bits_per_weight"] == plan["bits_per_weight"] == 8 + 16 * 224 / (192 * 32 + 32 * 48)


def test_globs_that_match_nothing_are_named(tiny):
    (fault,) = DynamicInt8(exclude=["*.fc1"]).faults(tiny)
    assert "exclude='*.fc1' matches none" in fault


def test_a_trained_model_loses_next_to_nothing(stories260k, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:20_000]
    judged = torch.tensor(stories260k.tokenizer(text)["input_ids"][: 8 * 256]).view(8, 256)
    before = perplexity(stories260k.module, judged)
    DynamicInt8().apply(stories260k, StageContext())
    after = perplexity(stories260k.module, judged)
    assert before != after
    assert after == pytest.approx(before, rel=0.02)
