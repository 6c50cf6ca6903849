"""BLOOM: ALiBi instead of positions, a norm after the embedding, an MLP four times the residual width."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("bloom",),
    blocks="transformer.h",
    embeddings="transformer.word_embeddings",
    final_norm="transformer.ln_f",
    head="lm_head",
    attention_inputs=("self_attention.query_key_value",),
    attention_output="self_attention.dense",
    head_width="self_attention.head_dim",
    heads_interleaved=True,
    alibi=True,
    mlp_inputs=("mlp.dense_h_to_4h",),
    mlp_output="mlp.dense_4h_to_h",
    norms=("input_layernorm", "post_attention_layernorm"),
    residual_writers=("transformer.word_embeddings_layernorm",),
    neurons_field=None,
)
