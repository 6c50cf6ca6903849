import json

import pytest
import torch
import transformers
from family_shapes import DECODERS
from reductions import EVERY, logits, loud, token_ids

import slimsweep
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import packed_layers
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.checkpoint import MANIFEST
from slimsweep.models.storage.quantization_config import quantization_config
from slimsweep.techniques.quantization.rtn import RTN


@pytest.fixture
def load(tmp_path):
    return lambda name, dtype=torch.float32: loud(name, str(tmp_path), dtype)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "saved"


def from_pretrained(name, folder, dtype):
    auto_class = "AutoModelForCausalLM" if name in DECODERS else "AutoModelForSequenceClassification"
    return getattr(transformers, auto_class).from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in EVERY), ("llama", torch.bfloat16)])
def test_packed_layers_of_every_family_reload_to_the_same_logits(load, folder, name, dtype):
    model = load(name, dtype)
    RTN(bits=4, group_size=16).apply(model, StageContext())
    is_plain = saved_model.save(model, folder)
    expected = logits(model)
    assert torch.equal(logits(slimsweep.load(folder)), expected)
    assert is_plain == (name not in ("gpt2", "falcon", "gpt_neox"))  # other layers; other names in the file
    if is_plain:
        assert torch.equal(logits(from_pretrained(name, folder, dtype)), expected)


@pytest.mark.parametrize(("bits", "grid"), [(2, "symmetric"), (3, "asymmetric"), (8, "symmetric"), (8, "asymmetric")])
def test_every_width_of_codes_loads_with_plain_transformers(load, folder, bits, grid):
    model = load("llama")
    RTN(bits=bits, grid=grid, group_size=None).apply(model, StageContext())
    assert saved_model.save(model, folder)
    assert torch.equal(logits(from_pretrained("llama", folder, torch.float32)), logits(model))


def test_layers_left_dense_and_layers_of_other_bits_each_have_their_place(load, folder):
    model = load("llama")
    RTN(bits=4, include=["*.mlp.*"], group_size=None).apply(model, StageContext())
    RTN(bits=8, include=["*.1.self_attn.*"], group_size=None).apply(model, StageContext())
    config = quantization_config(model)
    bits = {group["weights"]["num_bits"]: group["targets"] for group in config["config_groups"].values()}
    assert {count: len(names) for count, names in bits.items()} == {4: 6, 8: 4}
    assert set(config["ignore"]) == {
        "lm_head",
        *(f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"),
    }
    assert saved_model.save(model, folder)
    assert torch.equal(logits(from_pretrained("llama", folder, torch.float32)), logits(model))


def test_what_the_format_cannot_say_is_refused_by_plain_transformers_not_filled_with_chance(load, folder):
    model = load("llama")
    RTN(bits=4, group_size=16, grid="minimum").apply(model, StageContext())
    assert quantization_config(model) is None
    assert not saved_model.save(model, folder)
    assert torch.equal(logits(slimsweep.load(folder)), logits(model))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        from_pretrained("llama", folder, torch.float32)


def test_a_dense_model_has_no_quantization_config(load):
    assert quantization_config(load("llama")) is None


def test_a_reloaded_packed_model_can_be_saved_and_reloaded_again(load, folder, tmp_path):
    from slimsweep.models.sources.local import LocalModel

    model = load("llama")
    RTN(bits=3, group_size=None).apply(model, StageContext())
    saved_model.save(model, folder)
    source = LocalModel(path=str(folder), cache_dir=str(tmp_path / "cache"))
    again = source.load(torch.float32, torch.device("cpu"))
    assert packed_layers(source.skeleton().module).keys() == packed_layers(model.module).keys()
    assert again.original_parameters == model.original_parameters
    assert saved_model.save(again, tmp_path / "again")
    assert torch.equal(logits(slimsweep.load(tmp_path / "again")), logits(model))
    assert json.loads((tmp_path / "again" / MANIFEST).read_text()) == json.loads((folder / MANIFEST).read_text())


def test_greedy_text_of_a_packed_model_is_the_same_with_and_without_cache(load):
    model = load("llama")
    RTN(bits=4, group_size=None).apply(model, StageContext())
    given = {"input_ids": token_ids(5)[:1], "max_new_tokens": 6, "do_sample": False}
    cached, plain = (model.module.generate(**given, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
