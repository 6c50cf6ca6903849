"""StableLM: partial rotary positions; the 12B has a norm for each head and parallel attention and MLP."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("stablelm",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    head_width="self_attn.head_dim",
    head_counts={"self_attn.num_heads": "heads", "self_attn.num_key_value_heads": "key_value_heads"},
    head_norms=("self_attn.q_layernorm.norms", "self_attn.k_layernorm.norms"),
    mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
)
