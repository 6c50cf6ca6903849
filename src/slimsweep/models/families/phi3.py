"""Phi-3: one fused qkv projection and one fused gate-up projection a block."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("phi3",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_inputs=("self_attn.qkv_proj",),
    attention_output="self_attn.o_proj",
    head_width="self_attn.head_dim",
    head_counts={
        "self_attn.config.num_attention_heads": "heads",
        "self_attn.num_key_value_heads": "key_value_heads",
    },
    mlp_inputs=("mlp.gate_up_proj",),
    mlp_output="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
)
