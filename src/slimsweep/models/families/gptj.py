"""GPT-J: attention and MLP read one norm in parallel; the head has a bias."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("gptj",),
    blocks="transformer.h",
    embeddings="transformer.wte",
    final_norm="transformer.ln_f",
    head="lm_head",
    attention_inputs=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_output="attn.out_proj",
    head_width="attn.head_dim",
    head_counts={"attn.num_attention_heads": "heads"},
    mlp_inputs=("mlp.fc_in",),
    mlp_output="mlp.fc_out",
    norms=("ln_1",),
    neurons_field="n_inner",
)
