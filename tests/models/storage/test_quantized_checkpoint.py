import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.models.sources.local import LocalModel
from slimsweep.models.storage.quantized_checkpoint import fault
from slimsweep.models.storage.saved_model import save
from slimsweep.techniques.quantization.rtn import RTN

CPU = torch.device("cpu")
LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture
def folder(tiny, tmp_path):
    save(tiny, tmp_path / "saved")
    return tmp_path / "saved"


def says(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def holds(folder, **tensors):
    """Put tensors, named after their ending, in place of one layer's weight."""
    weights = load_file(folder / "model.safetensors")
    del weights[f"{LAYER}.weight"]
    added = {f"{LAYER}.{name}": tensor for name, tensor in tensors.items()}
    save_file(weights | added, folder / "model.safetensors", {"format": "pt"})


CODES = {
    "gptq, 4 bits": {"qweight": torch.zeros(4, 48, dtype=torch.int32), "scales": torch.ones(8, 48)},
    "compressed-tensors": {"weight_packed": torch.zeros(48, 4, dtype=torch.int32), "weight_scale": torch.ones(48, 8)},
    "bitsandbytes": {"weight": torch.zeros(48, 32, dtype=torch.int8), "SCB": torch.ones(48)},
    "fp8 with scales": {"weight": torch.zeros(48, 32).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1, 1)},
    "mxfp4": {"up_proj_blocks": torch.zeros(48, 1, 16, dtype=torch.uint8)},
    "hqq": {"W_q": torch.zeros(48, 4, dtype=torch.uint8)},
}


@pytest.mark.parametrize("codes", CODES)
def test_codes_are_known_by_their_tensors_alone(folder, tmp_path, codes):
    assert fault(folder) is None
    holds(folder, **CODES[codes])
    source = LocalModel(path=str(folder), cache_dir=str(tmp_path))
    (told,) = source.faults()
    assert f"tensor {LAYER}" in told and "Use the model it was made from" in told
    with pytest.raises(ModelError, match="quantized already"):
        source.load(torch.float32, CPU)
    with pytest.raises(ModelError, match="quantized already"):
        source.load_mapped(torch.float32, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("entries", "method"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes, 4 bits"),
        ({"compression_config": {"format": "pack-quantized"}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "mlx"),
    ],
)
def test_a_config_that_names_a_method_is_refused_before_weights_are_there(folder, entries, method):
    says(folder, **entries)
    assert "delete it there" in fault(folder)  # these files hold plain weights
    (folder / "model.safetensors").unlink()
    told = fault(folder)
    assert f"by {method} (see its config.json)" in told and "model it was made from" in told


@pytest.mark.parametrize("budget", [(), ("memory_budget=4GiB",)])
def test_the_command_starts_nothing_on_a_quantized_checkpoint(slimsweep, folder, tmp_path, budget):
    says(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    holds(folder, **CODES["gptq, 4 bits"])
    answer = slimsweep("model=local", f"model.path={folder}", "technique=[]", "tracker=none", *budget)
    assert answer.status == 1 and "Traceback" not in answer.err
    assert "nothing was started" in answer.err and "quantized already, by gptq" in answer.err
    assert not list((tmp_path / "outputs").glob("records/*"))


def test_settings_beside_the_weights_name_the_method_and_alone_decide_nothing(folder):
    (folder / "quantize_config.json").write_text('{"bits": 4}')
    assert fault(folder) is None
    holds(folder, **CODES["gptq, 4 bits"])
    assert "by gptq" in fault(folder)


def test_eight_bit_floats_without_scales_are_plain_numbers(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights[f"{LAYER}.weight"] = weights[f"{LAYER}.weight"].to(torch.float8_e4m3fn)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    source = LocalModel(path=str(folder), cache_dir=str(tmp_path))
    assert source.faults() == []
    for model in (source.load(torch.float32, CPU), source.load_mapped(torch.float32, tmp_path / "scratch")):
        assert torch.equal(model.module.get_submodule(LAYER).weight, weights[f"{LAYER}.weight"].float())


def test_what_was_saved_here_is_read_by_its_manifest(tiny, tmp_path):
    RTN(bits=4, group_size=8).apply(tiny, StageContext())
    save(tiny, tmp_path / "packed")
    assert LocalModel(path=str(tmp_path / "packed"), cache_dir=str(tmp_path)).faults() == []
    (tmp_path / "packed" / "slimsweep.json").unlink()
    assert "compressed-tensors" in fault(tmp_path / "packed")


@pytest.mark.parametrize("bits", [4, 8])
def test_the_way_to_plain_weights_that_is_told_leads_there(folder, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    quantized = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    quantized.save_pretrained(folder)
    told = fault(folder)
    recipe = told[told.index("AutoModelForCausalLM") :].rstrip(".")
    assert f"by bitsandbytes, {bits} bits" in told
    other = tmp_path / "other"
    eval(recipe, {"AutoModelForCausalLM": AutoModelForCausalLM, "FOLDER": folder, "OTHER_FOLDER": other})
    for file in folder.glob("tokenizer*"):
        (other / file.name).write_bytes(file.read_bytes())
    source = LocalModel(path=str(other), cache_dir=str(tmp_path))
    assert source.faults() == []
    expected = quantized.dequantize(torch.float32).get_submodule(LAYER).weight
    assert torch.equal(source.load(torch.float32, CPU).module.get_submodule(LAYER).weight, expected)
