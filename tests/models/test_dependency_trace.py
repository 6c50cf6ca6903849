import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_shapes import random_model

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.models.dependency_trace import trace
from slimsweep.models.storage.saved_model import save
from slimsweep.techniques.quantization.rtn import RTN

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
    RTN(bits=4, group_size=None).apply(tiny, StageContext())
    assert makers(tiny) == makers(tiny_source.skeleton()) == expected


def test_layers_forward_as_before_though_a_trace_failed(tiny, monkeypatch):
    def fails(*_args, **_kwargs):
        raise RuntimeError

    monkeypatch.setattr(type(tiny.module.model.norm), "forward", fails)
    with pytest.raises(RuntimeError):
        trace(tiny)
    assert not any("forward" in vars(layer) or layer._forward_hooks for layer in tiny.module.modules())


ROPES = {  # each decides by the highest position, which the meta device has no value of
    "longrope": ("phi3", {"rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}),
    "dynamic": ("llama", {"rope_theta": 10000.0, "factor": 2.0}),
}


@pytest.mark.parametrize("rope", ROPES)
def test_a_rope_that_depends_on_positions_is_traced_by_shapes_alone(rope, tmp_path):
    family, parameters = ROPES[rope]
    source = random_model(family, str(tmp_path))
    shape = source.shape | {"rope_parameters": {"rope_type": rope} | parameters}
    if rope == "longrope":
        shape |= {"original_max_position_embeddings": 64}
        shape["rope_parameters"] |= {"original_max_position_embeddings": 64}
    source = replace(source, shape=shape)
    model = source.load(torch.float32, CPU)
    assert model.module.model.rotary_emb.rope_type == rope
    assert makers(source.skeleton()) == makers(model)
    assert "self_attn.qkv_proj" in makers(model) or "self_attn.q_proj" in makers(model)


@pytest.mark.parametrize("technique", ["smoothquant", "awq"])
def test_jobs_that_scale_inputs_run_on_a_rope_that_depends_on_positions(technique, slimsweep, tmp_path):
    source = random_model("llama", str(tmp_path))
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    save(replace(source, shape=source.shape | {"rope_parameters": parameters}).load(torch.float32, CPU), tmp_path / "m")
    knobs = [f"technique={technique}", "calibration.tokens=32", "calibration.sequences=2", "evaluation=cost"]
    knobs += ["technique.awq.group_size=16"] if technique == "awq" else []
    answer = slimsweep("model=local", f"model.path={tmp_path}/m", "tracker=none", "dtype=float32", *knobs)
    assert answer.status == 0, answer.err
    record = json.loads(Path(answer.out.splitlines()[-1]).read_text())
    scaled = record["stages"][0]["notes"]["smoothed" if technique == "smoothquant" else "scaled"]
    assert len(scaled) >= 10  # q, k, v, gate and up of two blocks
