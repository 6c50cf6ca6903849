"""Gemma 1, 2 and the text models of 3: tied head, scaled embeddings, lost without a leading BOS."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("gemma", "gemma2", "gemma3_text"),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    head_softcap="final_logit_softcapping",
    attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    head_width="self_attn.head_dim",
    mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output="mlp.down_proj",
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    scales_embeddings=True,
    bos_every_window=True,
)
