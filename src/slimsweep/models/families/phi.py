"""Phi-1, 1.5 and 2: attention and MLP read one norm in parallel; the head has a bias."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("phi",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.final_layernorm",
    head="lm_head",
    attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.dense",
    head_width="self_attn.head_dim",
    mlp_inputs=("mlp.fc1",),
    mlp_output="mlp.fc2",
    norms=("input_layernorm",),
)
