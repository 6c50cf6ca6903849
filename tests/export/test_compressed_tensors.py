import json

import pytest
import torch
from exporting import written
from family_shapes import random_model

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.export.compressed_tensors import CompressedTensors, semi_structured
from slimsweep.techniques.pruning.magnitude import Magnitude
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.structured.glu import Glu

FORMAT = CompressedTensors()


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def test_packed_integers_load_by_plain_transformers(tiny, tmp_path):
    RTN(bits=4, group_size=16).apply(tiny, StageContext())
    assert FORMAT.faults(tiny) == []
    sample = written(FORMAT, tiny, tmp_path / "out")
    (line,) = FORMAT.verify(tmp_path / "out", sample)
    assert "plain transformers" in line
    assert config_of(tmp_path / "out")["format"] == "pack-quantized"
    assert "sparsity_config" not in config_of(tmp_path / "out")


def test_the_files_compute_what_the_model_did_in_fewer_bytes(tiny, tmp_path):
    dense = sum(parameter.nbytes for parameter in tiny.module.parameters())
    RTN(bits=4, group_size=16).apply(tiny, StageContext())
    written(FORMAT, tiny, tmp_path / "out")
    batch = {"input_ids": torch.randint(0, 258, (2, 9))}
    read = FORMAT.read(tmp_path / "out", tiny)
    assert torch.allclose(read.logits(read.hidden_states(batch)), tiny.logits(tiny.hidden_states(batch)), atol=1e-5)
    assert FORMAT.weight_bytes(tmp_path / "out") < dense


def test_zeros_of_2_4_are_named_and_load_by_plain_transformers(tiny, tmp_path):
    Magnitude(ratio=0.5, pattern="2:4", include=["*.mlp.*"]).apply(tiny, StageContext())
    assert len(semi_structured(tiny)) == 6  # three layers of two blocks
    sample = written(FORMAT, tiny, tmp_path / "out")
    (line,) = FORMAT.verify(tmp_path / "out", sample)
    assert "differ by 0 " in line
    sparsity = config_of(tmp_path / "out")["sparsity_config"]
    assert sparsity["sparsity_structure"] == "2:4" and len(sparsity["targets"]) == 6
    zeros = sum(int((layer.weight == 0).sum()) for layer in tiny.targets().values())
    weights = sum(layer.weight.numel() for layer in tiny.targets().values())
    assert sparsity["global_sparsity"] == zeros / weights


def test_packed_2_4_layers_carry_both(tiny, tmp_path):
    Magnitude(ratio=0.5, pattern="2:4").apply(tiny, StageContext())
    RTN(bits=4, group_size=16, grid="symmetric").apply(tiny, StageContext())
    sample = written(FORMAT, tiny, tmp_path / "out")
    FORMAT.verify(tmp_path / "out", sample)
    config = config_of(tmp_path / "out")
    assert config["format"] == "pack-quantized" and len(config["sparsity_config"]["targets"]) == 14


def test_what_it_cannot_express_is_refused_with_what_would_work(tiny):
    (dense,) = FORMAT.faults(tiny)
    assert "no layer is packed" in dense and "rtn" in dense
    packed = tiny.copy()
    NF4().apply(packed, StageContext())
    assert "stored as nf4 in a llama" in FORMAT.faults(packed)[0]
    Glu(ratio=0.25, blocks=(1, 1)).apply(tiny, StageContext())
    assert "Use hf" in FORMAT.faults(tiny)[0]


@pytest.mark.parametrize(("zeros", "is_sparse"), [(1, False), (2, True)])
def test_two_zeros_of_every_four_inputs_are_needed(tiny, zeros, is_sparse):
    for layer in tiny.targets().values():
        layer.weight.data = torch.ones_like(layer.weight)
        layer.weight.data.unflatten(1, (-1, 4))[..., :zeros] = 0
    assert bool(semi_structured(tiny)) == is_sparse


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "bert", "t5"])
def test_zeros_of_2_4_load_in_other_families(tmp_path, name):
    model = random_model(name, str(tmp_path)).load(torch.float32, torch.device("cpu"))
    Magnitude(ratio=0.5, pattern="2:4").apply(model, StageContext())
    sample = written(FORMAT, model, tmp_path / "out")
    (line,) = FORMAT.verify(tmp_path / "out", sample)  # raises where the logits differ
    assert "logits" in line and len(semi_structured(model)) == len(model.targets())
