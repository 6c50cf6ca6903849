import pytest
import torch
from family_shapes import random_model

from slimsweep.techniques.rtn import RTN
from slimsweep.tracing import trace

CPU = torch.device("cpu")


def makers(model) -> dict[str, str]:
    """By layer of the first block, who makes its inputs; names within the block."""
    prefix = f"{model.block_names[0]}."
    return {
        name.removeprefix(prefix): maker.removeprefix(prefix)
        for name, maker in trace(model).maker.items()
        if name.startswith(prefix)
    }


def test_a_gated_block(tiny):
    inputs = dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm")
    gate = dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm")
    assert makers(tiny) == inputs | gate  # what attention and the product with the gate make comes from no module
    seen = trace(tiny)
    assert "model.layers.0.input_layernorm" not in seen.shared
    assert {"model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj"} <= seen.shared


def test_a_block_whose_norms_are_in_the_residual(tmp_path):
    model = random_model("distilbert", str(tmp_path)).skeleton()
    assert makers(model) == {"ffn.lin1": "sa_layer_norm", "ffn.lin2": "ffn.activation"}
    assert "distilbert.transformer.layer.0.sa_layer_norm" in trace(model).shared


def test_an_activation_passes_scales_on_only_where_it_is_relu(tmp_path):
    names = {"opt": ("fc1", "fc2"), "gpt2": ("mlp.c_fc", "mlp.c_proj")}
    passes = {}
    for family, pair in names.items():
        model = random_model(family, str(tmp_path)).skeleton()
        passes[family] = trace(model).passes_scale(*(f"{model.block_names[1]}.{name}" for name in pair))
    assert passes == {"opt": True, "gpt2": False}


def test_packed_layers_and_shapes_alone_are_traced_alike(tiny_source, tiny):
    expected = makers(tiny)
    RTN(bits=4, group_size=None).apply(tiny, None, 0)
    assert makers(tiny) == makers(tiny_source.skeleton()) == expected


def test_layers_forward_as_before_though_a_trace_failed(tiny, monkeypatch):
    def fails(*_args, **_kwargs):
        raise RuntimeError

    monkeypatch.setattr(type(tiny.module.model.norm), "forward", fails)
    with pytest.raises(RuntimeError):
        trace(tiny)
    assert not any("forward" in vars(layer) or layer._forward_hooks for layer in tiny.module.modules())
