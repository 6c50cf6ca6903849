"""The exchange of files with sparseml's environment, with a stand-in for the package that prunes by magnitude.

The package itself cannot live beside this project's: `make sparseml-env`, then `slimsweep technique=sparseml`.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from slimsweep.errors import ModelError
from slimsweep.models.language_model import matrix
from slimsweep.techniques.rtn import RTN
from slimsweep.techniques.sparseml import SparseML, make_older

STAND_IN = '''
"""Sets the smallest half of each targeted layer to zero, after it checked what it was given."""
from pathlib import Path
import shutil, json
from safetensors.torch import load_file, save_file

def oneshot(model, tokenizer, dataset, recipe, output_dir, precision, max_seq_length, num_calibration_samples, **rest):
    modifier = json.loads(recipe)["pruning_stage"]["obcq_modifiers"]["SparseGPTModifier"]
    if modifier["sparsity"] == 0.9:
        raise RuntimeError("the stand-in fails at 0.9")
    assert precision == "float32" and rest["oneshot_device"] == "cpu" and modifier["mask_structure"] == "0:0"
    assert len(dataset) == num_calibration_samples == 4 and len(dataset[0]["input_ids"]) == max_seq_length == 16
    shutil.copytree(model, output_dir)
    tensors = load_file(Path(output_dir) / "model.safetensors")
    for name, weight in tensors.items():
        if any(name.startswith(target + ".") for target in modifier["targets"]) and weight.ndim == 2:
            limit = weight.abs().flatten().kthvalue(int(modifier["sparsity"] * weight.numel())).values
            tensors[name] = weight.masked_fill(weight.abs() <= limit, 0)
    save_file(tensors, Path(output_dir) / "model.safetensors")
'''


@pytest.fixture
def environment(tmp_path) -> str:
    """A folder whose `bin/python` is this interpreter with the stand-in on its path."""
    package = tmp_path / "packages" / "sparseml"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "transformers.py").write_text(STAND_IN)
    about = tmp_path / "packages" / "sparseml-1.8.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sparseml\nVersion: 1.8.0\n")
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "packages"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python.parents[1])


def token_ids():
    return torch.randint(258, (4, 16), generator=torch.Generator().manual_seed(0))


def test_weights_go_out_and_come_back(tiny, environment):
    before = {name: tensor.clone() for name, tensor in tiny.module.state_dict().items()}
    technique = SparseML(ratio=0.5, path=environment, include=["model.layers.1.*"])
    assert technique.faults(tiny) == []
    report = technique.apply(tiny, token_ids(), 0)
    assert report.notes["sparseml"] == "1.8.0"
    assert report.notes["seconds"] > 0
    assert {layer.name for layer in report.layers} == {n for n in tiny.targets() if n.startswith("model.layers.1.")}
    for layer in report.layers:
        weight = matrix(tiny.targets()[layer.name])
        was = before[f"{layer.name}.weight"]
        assert layer.zeros == int((weight == 0).sum()) == weight.numel() // 2
        assert torch.equal(weight[weight != 0], was[weight != 0])
    others = [name for name in before if not name.startswith("model.layers.1.")]
    assert all(torch.equal(before[name], tiny.module.state_dict()[name]) for name in others)


def test_a_failure_shows_what_it_printed_and_leaves_the_model(tiny, environment):
    before = matrix(next(iter(tiny.targets().values()))).clone()
    with pytest.raises(ModelError, match="the stand-in fails at 0.9"):
        SparseML(ratio=0.9, path=environment).apply(tiny, token_ids(), 0)
    assert torch.equal(before, matrix(next(iter(tiny.targets().values()))))


def test_faults_come_before_anything_runs(tiny):
    technique = SparseML(ratio=0.5, path="/nowhere", include=["*.mlp.*"])
    part, missing = technique.faults(tiny)
    assert "whole blocks" in part
    assert "make sparseml-env" in missing
    RTN(bits=4).apply(tiny, None, 0)
    assert "before the quantizer" in SparseML(ratio=0.5, path="/nowhere").faults(tiny)[0]


def test_files_become_those_of_older_readers(tmp_path):
    config = {"dtype": "bfloat16", "rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"merges": [["a", "b"], "c d"]}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend"}))
    make_older(Path(tmp_path))
    read = {name: json.loads((tmp_path / name).read_text()) for name in ("config.json", "tokenizer.json")}
    assert read["config.json"] | {"torch_dtype": "bfloat16", "rope_theta": 5.0} == read["config.json"]
    assert read["tokenizer.json"]["model"]["merges"] == ["a b", "c d"]
    kept = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert kept["tokenizer_class"] == "PreTrainedTokenizerFast"
