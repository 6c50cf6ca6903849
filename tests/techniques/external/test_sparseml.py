"""The exchange of files with sparseml's environment, with a stand-in for the package that prunes by magnitude.

The package itself cannot live beside this project's: `make sparseml-env`, then `slimsweep technique=sparseml`.
"""

import json
from pathlib import Path

import pytest
import torch
from contexts import text_context

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.techniques.external.sparseml import SparseML, make_older
from slimsweep.techniques.quantization.rtn import RTN


def token_ids():
    return torch.randint(258, (4, 16), generator=torch.Generator().manual_seed(0))


def test_weights_go_out_and_come_back(tiny, sparseml_environment):
    before = {name: tensor.clone() for name, tensor in tiny.module.state_dict().items()}
    technique = SparseML(ratio=0.5, path=sparseml_environment, include=["model.layers.1.*"])
    assert technique.faults(tiny) == []
    report = technique.apply(tiny, text_context(token_ids()))
    assert report.notes["sparseml"] == "1.8.0"
    assert report.notes["seconds"] > 0
    assert {layer.name for layer in report.layers} == {n for n in tiny.targets() if n.startswith("model.layers.1.")}
    for layer in report.layers:
        weight = weight_2d(tiny.targets()[layer.name])
        was = before[f"{layer.name}.weight"]
        assert layer.zeros == int((weight == 0).sum()) == weight.numel() // 2
        assert torch.equal(weight[weight != 0], was[weight != 0])
    others = [name for name in before if not name.startswith("model.layers.1.")]
    assert all(torch.equal(before[name], tiny.module.state_dict()[name]) for name in others)


def test_a_failure_shows_what_it_printed_and_leaves_the_model(tiny, sparseml_environment):
    before = weight_2d(next(iter(tiny.targets().values()))).clone()
    with pytest.raises(ModelError, match="the stand-in fails at 0.9"):
        SparseML(ratio=0.9, path=sparseml_environment).apply(tiny, text_context(token_ids()))
    assert torch.equal(before, weight_2d(next(iter(tiny.targets().values()))))


def test_faults_come_before_anything_runs(tiny):
    technique = SparseML(ratio=0.5, path="/nowhere", include=["*.mlp.*"])
    part, missing = technique.faults(tiny)
    assert "whole blocks" in part
    assert "sparseml-env" in missing
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    assert "before the quantizer" in SparseML(ratio=0.5, path="/nowhere").faults(tiny)[0]


def test_what_older_readers_would_misread_is_refused(tiny):
    from conftest import meta_model

    def faults(model):
        return " ".join(SparseML(ratio=0.5, path="/nowhere").faults(model))

    assert "does not know gemma3_text" in faults(meta_model("gemma_3_270m"))
    assert "rotary scaling 'llama3'" in faults(meta_model("llama_3_2_1b"))
    assert "does not know" not in faults(tiny) and "rotary" not in faults(tiny)


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
