from dataclasses import replace

import pytest
import torch
from conftest import meta_model
from family_shapes import DECODERS, ENCODERS, random_model
from reductions import loud, uneven
from safetensors.torch import save_file

from slimsweep.evaluation.size import FORMAT_DTYPES, Size, safetensors_bytes
from slimsweep.linear.base import weight_2d
from slimsweep.models.storage import saved_model

CPU = torch.device("cpu")
TARGETED = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)  # weights in the tiny model's blocks


def measure(model):
    return Size().measure(model, None).values


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama_2_7b", 6_738_415_616),
        ("llama_13b", 13_015_864_320),
        ("llama_3_2_1b", 1_235_814_400),
        ("llama_3_1_8b", 8_030_261_248),
        ("smollm2_135m", 134_515_008),
        ("smollm2_135m_hub", 134_515_008),
        ("opt_125m", 125_239_296),
        ("opt_1_3b", 1_315_758_080),
        ("pythia_160m", 162_322_944),
        ("gpt2", 124_439_808),
        ("qwen_2_5_0_5b", 494_032_768),
        ("gemma_3_270m", 268_098_176),
        ("bert_base", 109_483_778),
        ("distilbert", 66_955_010),
        ("minilm_6", 22_713_216 + 2 * 384 + 2),  # the published encoder, and a head of two labels
        ("t5_small", 60_506_624),
        ("t5_base", 222_903_552),
        ("bart_base", 139_420_416),
        ("bart_large_cnn", 406_290_432),
        # Shared embeddings, two tables of positions, six blocks a side: attention with biases, 512 to 2048 and back.
        ("marian_en_de", (58_101 + 2 * 512) * 512 + 6 * (3 * 1_050_624 + 2 * (2_048 * 512 * 2 + 2_560) + 5 * 1_024)),
    ],
)
def test_published_shapes_have_their_published_parameters(name, parameters):
    values = measure(meta_model(name))
    assert values["parameters"] == values["nonzero_parameters"] == parameters
    assert values["weight_bytes"] == 2 * parameters
    assert values["compression_factor"] == 1


def test_the_targeted_layers_of_smollm2():
    model = meta_model("smollm2_135m")
    assert sum(weight_2d(layer).numel() for layer in model.targets().values()) == 106_168_320


def test_zeros_are_counted_over_the_targeted_layers(tiny):
    weight_2d(tiny.blocks[0].mlp.up_proj)[:3] = 0
    tiny.module.model.norm.weight[:5] = 0  # a parameter, but not targeted
    values = measure(tiny)
    assert values["sparsity"] == 3 * 32 / TARGETED
    assert values["parameters"] - values["nonzero_parameters"] == 3 * 32 + 5


def test_planned_zeros_are_counted_on_the_meta_device(tiny_source):
    model = replace(tiny_source, weights="meta").load(torch.bfloat16, CPU)
    model.zeros = {"model.layers.0.mlp.up_proj": 96}
    values = measure(model)
    assert values["sparsity"] == 96 / TARGETED
    assert values["parameters"] - values["nonzero_parameters"] == 96
    assert values["weight_bytes"] - values["bitmap_bytes"] == 2 * 96 - TARGETED / 8


def test_a_mask_alone_compresses_nothing_in_memory(tiny_source):
    model = tiny_source.load(torch.bfloat16, CPU)
    for layer in model.targets().values():
        weight_2d(layer)[::2] = 0
    values = measure(model)
    assert values["sparsity"] == 0.5
    assert values["compression_factor"] == 1


def test_bitmap_keeps_one_bit_a_weight_and_the_nonzero_values(tiny_source):
    model = tiny_source.load(torch.bfloat16, CPU)
    for layer in model.targets().values():
        weight_2d(layer)[::2] = 0
    values = measure(model)
    rest = 2 * (values["parameters"] - TARGETED)
    assert values["bitmap_bytes"] == rest + TARGETED // 8 + 2 * TARGETED // 2


def test_fp32_takes_twice_the_bytes_that_are_compared_with(tiny):
    assert measure(tiny)["compression_factor"] == 0.5


def test_fewer_blocks_compress_the_original(tiny_source):
    model = tiny_source.load(torch.bfloat16, CPU)
    whole = measure(model)["parameters"]
    model.module.model.layers = model.module.model.layers[:1]
    values = measure(model)
    assert values["compression_factor"] == whole / values["parameters"] > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_checkpoint_bytes_are_those_of_the_file(name, dtype, tmp_path):
    model = random_model(name, str(tmp_path)).load(dtype, CPU)
    model.module.save_pretrained(tmp_path / "saved")
    assert measure(model)["checkpoint_bytes"] == (tmp_path / "saved" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_checkpoint_bytes_of_uneven_models_are_those_of_the_file(name, tmp_path):
    model = uneven(loud(name, str(tmp_path)))
    assert not saved_model.save(model, tmp_path / "saved")
    assert measure(model)["checkpoint_bytes"] == (tmp_path / "saved" / "model.safetensors").stat().st_size


def test_checkpoint_bytes_need_no_weights(tiny, tiny_source):
    meta = replace(tiny_source, weights="meta").load(torch.float32, CPU)
    assert measure(meta)["checkpoint_bytes"] == measure(tiny)["checkpoint_bytes"]


def test_file_of_mixed_types_has_the_computed_length(tmp_path):
    tensors = {
        f"{'long' * size}{index}": torch.zeros(size, 3).to(dtype)
        for index, dtype in enumerate(FORMAT_DTYPES)
        for size in (1, 4, 50)
    }
    save_file(tensors, tmp_path / "file.safetensors", metadata={"format": "pt"})
    assert safetensors_bytes(tensors) == (tmp_path / "file.safetensors").stat().st_size


def test_checkpoint_of_the_embedded_model(smollm2):
    converted = smollm2.folder() / "model.safetensors"
    assert measure(smollm2.load(torch.float32, CPU))["checkpoint_bytes"] == converted.stat().st_size


def test_fields_are_those_measured(tiny):
    assert list(measure(tiny)) == [one.field for one in Size().quantities()]
