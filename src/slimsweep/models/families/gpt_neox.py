"""GPT-NeoX and Pythia: attention and MLP of a block read the same residual in parallel."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("gpt_neox",),
    blocks="gpt_neox.layers",
    embeddings="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    head="lm_head",
    attention_inputs=("attention.query_key_value",),
    attention_output="attention.dense",
    head_width="attention.head_size",
    heads_interleaved=True,
    mlp_inputs=("mlp.dense_h_to_4h",),
    mlp_output="mlp.dense_4h_to_h",
    norms=("input_layernorm", "post_attention_layernorm"),
)
