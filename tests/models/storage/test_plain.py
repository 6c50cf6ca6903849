import pytest
import torch
from reductions import EVERY, loud, remove_units

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.models import anatomy, surgery
from slimsweep.models.storage.plain import plain_config
from slimsweep.techniques.quantization.rtn import RTN

NARROWED_BY_MANIFEST = [
    "gemma",
    "gemma2",
    "gemma3_text",
    "opt",
    "gpt2",
    "gpt_neox",
    "gptj",
    "stablelm",
    "falcon",
    "bloom",
]
NARROWED_BY_MANIFEST += ["bert", "roberta", "distilbert"]


@pytest.fixture
def load(tmp_path):
    return lambda name: loud(name, str(tmp_path), torch.float32)


def without_channels(model, gone):
    surgery.remove(model, anatomy.channels(model), gone)
    return model


@pytest.mark.parametrize("name", NARROWED_BY_MANIFEST)
def test_families_that_tie_their_widths_need_the_manifest_for_fewer_channels(load, name):
    assert plain_config(without_channels(load(name), range(8))) is None


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3", "granite", "olmo2"])
def test_families_with_a_width_of_heads_of_its_own_are_plain_without_channels(load, name):
    config = plain_config(without_channels(load(name), range(8)))
    assert config.hidden_size == 24
    assert config.head_dim == EVERY[name].get("head_dim", 8)


def test_a_width_the_number_of_heads_does_not_divide_is_no_plain_llama(load):
    assert plain_config(without_channels(load("llama"), [0, 1])) is None


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_a_pooler_that_keeps_its_width_needs_the_manifest(load, name):
    model = without_channels(remove_units(load(name), [[0], [3]], [[], []]), range(8))
    assert plain_config(model) is None


def test_packed_layers_count_as_the_weights_they_stand_for(load):
    model = load("llama")
    RTN(group_size=None).apply(model, StageContext())
    assert plain_config(model).hidden_size == 32
