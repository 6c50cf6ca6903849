"""StarCoder2: grouped queries, an MLP without a gate, biases and LayerNorms."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("starcoder2",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    head_width="self_attn.head_dim",
    mlp_inputs=("mlp.c_fc",),
    mlp_output="mlp.c_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
)
