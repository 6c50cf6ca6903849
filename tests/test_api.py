"""Functions for programs: a module, a folder or a name is compressed without Hydra, and records become a frame."""

import json

import pandas as pd
import pytest
import torch
from conftest import TINY_SHAPE
from small_jobs import SMALL
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import slimsweep as api
from slimsweep.cli.slim import app
from slimsweep.errors import ConfigError, ModelError
from slimsweep.models.sources.byte_tokenizer import byte_tokenizer

TEXTS = ["a text of some length that is read for calibration " * 8, "another one, which is no shorter than it " * 8]


@pytest.fixture
def module():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY_SHAPE))


@pytest.fixture(autouse=True)
def own_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMSWEEP_OUTPUTS", str(tmp_path / "outputs"))


def zeros(model) -> float:
    weight = model.model.layers[1].mlp.up_proj.weight
    return float((weight == 0).float().mean())


def test_a_module_is_compressed_in_three_lines_and_stays_as_it_was(module):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    done = api.compress(module, "sparsegpt", 0.5, TEXTS, tokenizer=byte_tokenizer())
    assert zeros(done.model) == pytest.approx(0.5, abs=0.01) and zeros(module) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [stage["name"] for stage in done.stages] == ["sparsegpt"] and "sparsegpt" in repr(done)


def test_a_compressed_model_is_saved_and_read_back(module, tmp_path):
    done = api.compress(module, ["magnitude", "nf4"], ratio=0.3, nf4={"block_size": 32})
    folder = done.save(tmp_path / "model")
    ids = torch.arange(12)[None]
    assert torch.equal(api.load(folder)(ids).logits, done.model(ids).logits)
    assert done.stages[1]["fields"]["block_size"] == 32
    with pytest.raises(ModelError, match="not an empty folder"):
        done.save(folder)


def test_what_was_compressed_can_be_compressed_again(module):
    first = api.compress(module, "magnitude", ratio=0.3)
    second = api.compress(first.model, "nf4")
    assert second.stages[0]["technique"] == "nf4"
    narrow = api.compress(module, "glu", ratio=0.5)
    assert api.compress(narrow.model, "magnitude", ratio=0.5).model.model.layers[0].mlp.up_proj.out_features == 24


def test_a_folder_is_compressed_with_its_own_tokenizer(module, tmp_path):
    module.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    done = api.compress(tmp_path / "model", "wanda", 0.25, TEXTS, seed=1, dtype="float32")
    assert zeros(done.model) == pytest.approx(0.25, abs=0.01) and done.tokenizer is not None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"technique": "sparsegtp"}, "sparsegpt"),
        ({"technique": "sparsegtp", "ratio": 0.5, "block_columns": 64}, "sparsegpt"),
        ({"technique": "nf4", "ratio": 0.5}, "none of nf4 has a ratio"),
        ({"technique": "magnitude", "ratio": 1.5}, "ratio"),
        ({"technique": "magnitude", "blok_columns": 4}, "neither a knob of magnitude nor a setting"),
        ({"technique": ["wanda", "magnitude"], "relative_to": "remaining"}, "a knob of wanda and magnitude"),
        ({"technique": ["magnitude", "magnitude"]}, "lists 'magnitude' 2 times"),
        ({"technique": "wanda", "ratio": 0.5}, "no tokenizer"),
        ({"technique": "wanda", "calibration": []}, "a list of texts"),
        ({"technique": "wanda", "calibration": "nothing"}, "nothing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(module, arguments, says):
    with pytest.raises(ConfigError) as error:
        api.compress(module, **arguments)
    assert says in str(error.value)


def test_faults_of_knobs_and_of_the_model_are_told_together(module):
    with pytest.raises(ConfigError) as error:
        api.compress(module, "wanda", 0.5, blok_columns=4)
    assert "blok_columns is neither" in str(error.value) and "no tokenizer" in str(error.value)
    with pytest.raises(ConfigError) as error:
        api.compress(module, "sparsegtp", 0.5, block_columns=4)
    assert "has a ratio" not in str(error.value) and "neither a knob" not in str(error.value)


def test_text_that_is_no_model_is_answered_with_the_names():
    with pytest.raises(ConfigError, match="smollm2_135m"):
        api.compress("smollm3_135m", "nf4")


def test_an_architecture_that_is_unknown_is_refused():
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    with pytest.raises(ConfigError, match="known family"):
        api.compress(AutoModelForCausalLM.from_config(AutoConfig.for_model("xglm", **shape)), "nf4")


def test_records_are_a_frame_with_the_fields_and_types_of_the_table(slimsweep, tmp_path):
    outputs = f"outputs_dir={tmp_path / 'outputs'}"
    assert slimsweep(*SMALL, outputs, "-m", "technique=[],magnitude", "ratio=0.5", "sweep=mine").status == 0
    frame = api.records("mine", tmp_path / "outputs")
    table = (
        CliRunner().invoke(app, ["table", "mine", "--format", "json", "--outputs", str(tmp_path / "outputs")]).stdout
    )
    listed = json.loads(table)
    assert list(frame["key"]) == [record["key"] for record in listed] and set(frame) == set().union(*listed)
    for record, (_, row) in zip(listed, frame.iterrows(), strict=True):
        for name, value in record.items():
            known = row[name]
            assert (value is None and pd.isna(known)) or value == known, name
    kinds = {name: str(frame[name].dtype) for name in ("parameters", "ratio", "technique", "config")}
    assert kinds == {"parameters": "Int64", "ratio": "float64", "technique": "str", "config": "object"}
    assert len(api.records(outputs=tmp_path / "outputs")) == 2 and not len(api.records(outputs=tmp_path / "none"))
