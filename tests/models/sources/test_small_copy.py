import math

import pytest
import torch
from conftest import PROJECT
from family_shapes import DECODERS, ENCODER_DECODERS, ENCODERS
from omegaconf import OmegaConf
from transformers import AutoConfig

from slimsweep.models.families import family_of
from slimsweep.models.placement import loading
from slimsweep.models.sources.random import RandomModel
from slimsweep.models.sources.small_copy import small_config, write_small_copy
from slimsweep.models.task import TASKS

NAMED = sorted(path.stem for path in (PROJECT / "conf" / "model").glob("*.yaml") if "shape:\n" in path.read_text())
META = torch.device("meta")


def copy_of(shape: dict):
    config = AutoConfig.for_model(**shape)
    return config, small_config(config, family_of(config.model_type))


def built(config, task: str):
    return loading.build(config, TASKS[task], torch.float32, META, False)


@pytest.mark.parametrize("name", NAMED)
def test_every_named_model_has_a_copy_of_two_blocks_that_can_be_built(name):
    settings = OmegaConf.to_container(OmegaConf.load(PROJECT / "conf" / "model" / f"{name}.yaml"))
    _, small = copy_of(settings["shape"])
    assert small.hidden_size <= 256 and small.vocab_size == settings["shape"]["vocab_size"]
    family = family_of(small.model_type)
    assert {getattr(small, stack.blocks_field) for stack in family.stacks} == {2}
    built(small, settings.get("task", "causal_lm"))


def test_the_copy_of_smollm2_keeps_the_ratios_of_its_widths_and_heads():
    shape = OmegaConf.load(PROJECT / "conf" / "model" / "smollm2_135m.yaml").shape
    config, small = copy_of(OmegaConf.to_container(shape))
    assert (small.hidden_size, small.num_attention_heads, small.num_key_value_heads) == (192, 6, 2)
    assert (small.head_dim, small.intermediate_size) == (32, 512)  # 1536 / 576 of 192
    assert small.intermediate_size / small.hidden_size == config.intermediate_size / config.hidden_size


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, *ENCODER_DECODERS])
def test_a_small_model_keeps_its_widths(name):
    shape = {**DECODERS, **ENCODERS, **ENCODER_DECODERS}[name]
    config, small = copy_of(shape)
    changed = {key for key, value in small.to_dict().items() if config.to_dict()[key] != value}
    assert changed <= {"num_layers", "num_decoder_layers", "decoder_layers", "num_hidden_layers"}


@pytest.mark.parametrize(
    "model_type", ["falcon", "gemma3_text", "gptj", "mistral", "mt5", "phi3", "qwen3", "smollm3", "stablelm"]
)
def test_the_default_shape_of_a_family_has_a_copy_that_can_be_built(model_type):
    config = AutoConfig.for_model(model_type)
    family = family_of(model_type)
    small = small_config(config, family)
    module = built(small, "seq2seq_lm" if family.encoder else "causal_lm")
    heads, shared = small.num_attention_heads, getattr(small, family.key_value_heads_field, None)
    ratio = config.num_attention_heads / (getattr(config, family.key_value_heads_field, None) or math.inf)
    assert heads / (shared or math.inf) == ratio
    assert small.hidden_size <= 256 and module.config is small


def test_a_list_of_kinds_of_blocks_keeps_both_kinds():
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    shape = DECODERS["gemma3_text"] | {"num_hidden_layers": 6, "layer_types": kinds}
    assert copy_of(shape)[1].layer_types == ["sliding_attention", "full_attention"]


def test_one_key_for_very_many_heads_cannot_keep_the_ratio():
    shape = DECODERS["falcon"] | {"num_attention_heads": 71, "hidden_size": 71 * 64, "num_kv_heads": 1}
    small = copy_of(shape)[1]
    assert (small.num_attention_heads, small.num_kv_heads, small.hidden_size) == (32, 1, 256)


def test_a_copy_on_disk_has_the_tokenizer_and_runs(tmp_path):
    shape = DECODERS["llama"] | {"num_hidden_layers": 5}
    source = RandomModel(name="five", shape=shape, cache_dir=str(tmp_path))
    copy = write_small_copy(source, tmp_path / "copy")
    model = copy.load(torch.float32, torch.device("cpu"))
    assert len(model.blocks) == 2 and copy.name == "five" and not copy.faults()
    text = "a sentence"
    assert copy.tokenizer()(text)["input_ids"] == source.tokenizer()(text)["input_ids"]
    assert model.module(torch.arange(9)[None]).logits.shape == (1, 9, 260)
