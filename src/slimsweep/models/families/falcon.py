"""Falcon: one qkv projection, group after group: the queries of a group, its key, its value."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("falcon",),
    blocks="transformer.h",
    embeddings="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    head="lm_head",
    attention_inputs=("self_attention.query_key_value",),
    attention_output="self_attention.dense",
    head_width="self_attention.head_dim",
    head_counts={"self_attention.num_heads": "heads", "self_attention.num_kv_heads": "key_value_heads"},
    heads_interleaved=True,
    alibi="alibi",
    mlp_inputs=("mlp.dense_h_to_4h",),
    mlp_output="mlp.dense_4h_to_h",
    norms=("input_layernorm", "post_attention_layernorm", "ln_attn", "ln_mlp"),
    key_value_heads_field="num_kv_heads",
    neurons_field="ffn_hidden_size",
)
