"""GPT-2: its layers are Conv1D, whose weight is [in out]."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("gpt2",),
    blocks="transformer.h",
    embeddings="transformer.wte",
    final_norm="transformer.ln_f",
    head="lm_head",
    attention_inputs=("attn.c_attn",),
    attention_output="attn.c_proj",
    head_width="attn.head_dim",
    head_counts={"attn.num_heads": "heads", "attn.split_size": "width"},
    mlp_inputs=("mlp.c_fc",),
    mlp_output="mlp.c_proj",
    norms=("ln_1", "ln_2"),
    residual_writers=("transformer.wpe",),
    neurons_field="n_inner",
)
