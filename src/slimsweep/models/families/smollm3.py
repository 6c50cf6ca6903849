"""SmolLM3: Llama's parts; a list in its config says which blocks have rotary positions."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("smollm3",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    head_width="self_attn.head_dim",
    mlp_inputs=("mlp.gate_proj", "mlp.up_proj"),
    mlp_output="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
)
