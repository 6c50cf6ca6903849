import json
from dataclasses import replace

import pytest
import torch
from exporting import written

import slimsweep as package
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ExportError
from slimsweep.export import hf
from slimsweep.export.hf import HuggingFace
from slimsweep.models.storage.checkpoint import MANIFEST
from slimsweep.techniques.quantization.nf4 import NF4
from slimsweep.techniques.quantization.rtn import RTN
from slimsweep.techniques.structured.glu import Glu


def test_a_plain_model_is_read_by_transformers_with_equal_logits(tiny, tmp_path):
    sample = written(HuggingFace(), tiny, tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()
    (line,) = HuggingFace().verify(tmp_path / "out", sample)
    assert "plain transformers" in line and "differ by 0 " in line


def test_another_model_than_the_sample_fails(tiny, tmp_path):
    sample = written(HuggingFace(), tiny, tmp_path / "out")
    with pytest.raises(ExportError, match="differ by .* allowed is 0.0001"):
        HuggingFace().verify(tmp_path / "out", replace(sample, logits=sample.logits.roll(1, -1)))


def test_unequal_neurons_stand_in_per_layer_config_and_load_by_the_manifest(tiny, tmp_path):
    Glu(ratio=0.25, blocks=(1, 1)).apply(tiny, StageContext())
    sample = written(HuggingFace(), tiny, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["per_layer_config"] == {"1": {"intermediate_size": 36}}  # 48 of 48 and 36 of 48 neurons
    assert (tmp_path / "out" / MANIFEST).exists()
    (line,) = HuggingFace().verify(tmp_path / "out", sample)
    assert "slimsweep.load" in line and "differ by 0 " in line


def test_from_pretrained_refuses_unequal_widths_and_draws_no_weights(tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    Glu(ratio=0.25, blocks=(1, 1)).apply(tiny, StageContext())
    written(HuggingFace(), tiny, tmp_path / "out")
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_transformers_reads_the_widths_of_each_block(tiny, tmp_path):
    from transformers import AutoConfig

    Glu(ratio=0.25, blocks=(1, 1)).apply(tiny, StageContext())
    written(HuggingFace(), tiny, tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert [config.per_layer_config[block].intermediate_size for block in (0, 1)] == [48, 36]


@pytest.mark.parametrize(("block", "is_readable"), [("1", True), ("2", False)])
def test_transformers_takes_only_blocks_that_are_there(block, is_readable):
    config = {"model_type": "llama", "num_hidden_layers": 2, "per_layer_config": {block: {"intermediate_size": 4}}}
    assert hf._is_readable(config) == is_readable


@pytest.mark.parametrize("technique", [NF4(), RTN(bits=4, group_size=16)], ids=["nf4", "rtn"])
def test_packed_models_keep_their_form(tiny, tmp_path, technique):
    technique.apply(tiny, StageContext())
    sample = written(HuggingFace(), tiny, tmp_path / "out")
    HuggingFace().verify(tmp_path / "out", sample)
    assert torch.allclose(
        package.load(tmp_path / "out")(sample.batch["input_ids"]).logits, sample.logits, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("packer", [None, NF4(), RTN(bits=4, group_size=16), RTN(bits=8, group_size=16)])
def test_the_files_compute_what_the_model_did_and_count_its_bytes(tiny, tmp_path, packer):
    if packer:
        packer.apply(tiny, StageContext())
    written(HuggingFace(), tiny, tmp_path / "out")
    read = HuggingFace().read(tmp_path / "out", tiny)
    batch = {"input_ids": torch.randint(0, 258, (2, 9))}
    assert read.module is not tiny.module
    ours, theirs = (one.logits(one.hidden_states(batch)) for one in (tiny, read))
    assert torch.allclose(theirs, ours, rtol=0, atol=1e-5 if isinstance(packer, RTN) else 0)
    assert HuggingFace().weight_bytes(tmp_path / "out") == sum(one.nbytes for one in tiny.module.parameters())
