"""OLMo 2: norms after attention and MLP, and norms over all queries and all keys of a block."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("olmo2",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    head_width="self_attn.head_dim",
    head_norms=("self_attn.q_norm", "self_attn.k_norm"),
    mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output="mlp.down_proj",
    norms=("post_attention_layernorm", "post_feedforward_layernorm"),
)
