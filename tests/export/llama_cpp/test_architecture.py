import gguf
import pytest
import torch
from transformers import AutoConfig

from slimsweep.export.llama_cpp.architecture import (
    ARCHITECTURES,
    interleave,
    metadata,
    named_tensors,
    rope_factors,
    separate,
)

WIDTHS = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2}


def config_of(kind, **settings):
    return AutoConfig.for_model(kind, **(WIDTHS | settings))


def test_rows_of_a_head_become_neighbours():
    rows = torch.arange(8.0)[:, None]  # two heads of width 4: pairs (0, 2), (1, 3) and (4, 6), (5, 7)
    assert interleave(rows, heads=2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(separate(interleave(rows, heads=2), heads=2), rows)


def test_names_and_values_of_tensors():
    tensors = {
        "model.layers.1.self_attn.k_proj.weight": torch.arange(32.0 * 64).view(32, 64),
        "model.norm.weight": torch.zeros(64),
    }
    llama = {t.name: t.values() for t in named_tensors(ARCHITECTURES["llama"], config_of("llama"), tensors)}
    assert llama["blk.1.attn_k.weight"][:3, 0].tolist() == [0, 8 * 64, 64]
    assert llama["output_norm.weight"].tolist() == [0] * 64
    gemma = {t.name: t.values() for t in named_tensors(ARCHITECTURES["gemma2"], config_of("gemma2"), tensors)}
    assert gemma["blk.1.attn_k.weight"][:3, 0].tolist() == [0, 64, 128]
    assert gemma["output_norm.weight"].tolist() == [1] * 64


def test_a_tensor_without_a_place_is_named():
    with pytest.raises(LookupError, match="model.extra.weight"):
        list(named_tensors(ARCHITECTURES["llama"], config_of("llama"), {"model.extra.weight": torch.zeros(2)}))


def test_every_architecture_is_one_of_the_package():
    assert {entry.name for entry in ARCHITECTURES.values()} <= set(gguf.MODEL_ARCH_NAMES.values())


def test_metadata_of_gemma():
    found = metadata(ARCHITECTURES["gemma2"], config_of("gemma2", sliding_window=8))
    assert found["gemma2.attention.sliding_window"] == 8
    assert found["gemma2.attn_logit_softcapping"] == 50.0
    assert found["gemma2.attention.key_length"] == 16


def test_the_window_of_mistral_bounds_the_context():
    found = metadata(ARCHITECTURES["mistral"], config_of("mistral", sliding_window=4096, max_position_embeddings=32768))
    assert found["llama.context_length"] == 4096


def test_factors_of_llama_3():
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    config = config_of("llama", rope_parameters=rope | {"original_max_position_embeddings": 64})
    factors = rope_factors(config)  # by width 16: 64 / 2 pi = 10.2 turns of the fastest pair, 0.003 of the slowest
    assert factors[0] == 1 and factors[-1] == 8
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(plain / factors, expected)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "yarn"),
        ("llama", {"hidden_act": "relu"}, "relu"),
        ("qwen2", {"layer_types": ["sliding_attention", "full_attention"]}, "no block has a sliding window"),
        ("gemma2", {"layer_types": ["full_attention", "full_attention"]}, "each 2th has"),
        ("gemma2", {"query_pre_attn_scalar": 99}, "query_pre_attn_scalar is 99"),
    ],
)
def test_settings_that_llama_cpp_does_not_read_are_refused(kind, settings, message):
    own = {"query_pre_attn_scalar": 16} if kind == "gemma2" else {}
    assert not ARCHITECTURES[kind].faults(config_of(kind, **own))
    (fault,) = ARCHITECTURES[kind].faults(config_of(kind, **(own | settings)))
    assert message in fault
