import pytest
import torch
from conftest import meta_model
from planning import apply_or_plan
from restatements import perplexity

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.size import Size
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.nf4 import NF4

CPU = torch.device("cpu")


def test_golden_output_of_version_1():
    assert NF4.version == 1
    weight = torch.tensor([[((7 * column + 3 * row) % 23 - 11) / 8 for column in range(64)] for row in range(3)])
    layer = NF4(block_size=64).compress_layer(weight)
    assert layer.weight_packed[:8].tolist() == [3, 175, 40, 225, 109, 4, 191, 57]
    assert layer.dequantized()[2, :6].tolist() == pytest.approx(
        [-0.5430115, 0.2212790, 0.9940656, -0.9572651, 0, 0.7735984], abs=1e-6
    )


def test_each_knob_reaches_the_layer():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    plain = NF4().compress_layer(weight)
    assert plain.settings == {
        "quant_type": "nf4",
        "block_size": 64,
        "double_quantization": True,
        "compute_dtype": None,
    }
    other = NF4(quant_type="fp4", block_size=128, double_quantization=False, compute_dtype="float32")
    layer = other.compress_layer(weight)
    assert layer.settings == other.form((8, 64))[1] and not torch.equal(layer.weight_levels, plain.weight_levels)
    assert layer.weight_absmax.tolist() == weight.view(4, 128).abs().amax(dim=1).tolist()


def test_bad_knobs_are_named_together():
    with pytest.raises(ValueError) as found:
        NF4(quant_type="int4", block_size=48, compute_dtype="fp8")
    message = str(found.value)
    for part in ("quant_type='int4'", "nf4 or fp4", "block_size=48", "32, 64, 128", "compute_dtype='fp8'"):
        assert part in message


@pytest.mark.parametrize("block", [0, -64, True, 16, 8192])
def test_block_sizes_that_bitsandbytes_has_not_are_refused(block):
    with pytest.raises(ValueError, match=f"block_size={block}"):
        NF4(block_size=block)


@pytest.mark.parametrize("fields", [{}, {"double_quantization": False}, {"block_size": 4096}])
def test_the_plan_on_shapes_has_the_bytes_of_real_weights(tiny_source, tiny, fields):
    technique = NF4(exclude="*k_proj", **fields)
    plan = tiny_source.skeleton().copy()
    reports = [apply_or_plan(technique, model) for model in (plan, tiny)]
    planned, real = (Size().measure(model, None).values for model in (plan, tiny))
    names = ("parameters", "weight_bytes", "bits_per_weight", "checkpoint_bytes", "compression_factor")
    assert [planned[name] for name in names] == [real[name] for name in names]
    assert reports[0].notes["bits_per_weight"] == reports[1].notes["bits_per_weight"]


def test_a_seven_billion_model_by_arithmetic():
    model = meta_model("llama_2_7b")
    NF4().plan(model)
    sizes = {(4096, 4096): 4, (4096, 11008): 3}  # of each of 32 blocks
    expected = 0
    for (rows, columns), count in sizes.items():
        blocks = rows * columns // 64
        expected += 32 * count * (rows * columns // 2 + blocks + 4 * blocks // 256 + 4 * (16 + 256 + 1))
    expected += 2 * (2 * 32000 * 4096 + (2 * 32 + 1) * 4096)  # embeddings, head and norms in bf16
    assert Size().measure(model, None).values["weight_bytes"] == expected


def test_pruned_weights_stay_zeros_and_the_report_counts_all_zeros(tiny):
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    zeros = {name: weight_2d(layer) == 0 for name, layer in tiny.targets().items()}
    report = NF4().apply(tiny, StageContext())
    for layer in report.layers:
        found = weight_2d(tiny.targets()[layer.name])
        assert bool((found[zeros[layer.name]] == 0).all())
        assert layer.zeros == int((found == 0).sum()) >= int(zeros[layer.name].sum())
        assert 0 < layer.error < 0.15


def test_a_pruner_after_it_packs_again_on_the_magnitudes_it_has(tiny):
    NF4().apply(tiny, StageContext())
    before = {name: weight_2d(layer).clone() for name, layer in tiny.targets().items()}
    Magnitude(ratio=0.5).apply(tiny, StageContext())
    for name, layer in packed_layers(tiny.module).items():
        found = layer.dequantized()
        assert layer.kind == "nf4" and int((found == 0).sum()) >= found.numel() // 2
        assert torch.equal(found, torch.where(found == 0, 0, before[name]))


@torch.no_grad()
def test_normal_levels_lose_less_than_float_levels_on_a_trained_model(stories260k_source, shared):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:20_000]
    models = {name: stories260k_source.load(torch.float32, CPU) for name in ("dense", "nf4", "fp4")}
    ids = torch.tensor(models["dense"].tokenizer(text)["input_ids"][: 16 * 256]).view(16, 256)
    for name in ("nf4", "fp4"):
        NF4(quant_type=name).apply(models[name], StageContext())
    found = {name: perplexity(model.module, ids) for name, model in models.items()}
    assert found["dense"] < found["nf4"] < found["fp4"] < 1.5 * found["dense"]


def test_a_block_of_the_embedded_model_at_4127_thousandths_of_a_bit(smollm2):
    model = smollm2.load(torch.bfloat16, CPU)
    dense = {name: weight_2d(layer).clone() for name, layer in model.targets().items() if ".layers.0." in name}
    report = NF4(include="*.layers.0.*").apply(model, StageContext())
    assert [layer.name for layer in report.layers] == list(dense)
    mlp = model.targets()["model.layers.0.mlp.up_proj"]  # 1536 x 576
    assert 4.127 <= mlp.bits_per_weight < 4.127 * 1.03
    for layer in report.layers:
        found = weight_2d(model.targets()[layer.name])
        assert found.dtype == torch.bfloat16
        change = (found.float() - dense[layer.name].float()).norm() / dense[layer.name].float().norm()
        assert layer.error == pytest.approx(float(change), rel=1e-4) and 0.05 < layer.error < 0.12
