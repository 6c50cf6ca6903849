"""GPT-2: its layers are Conv1D, whose weight is [in out]."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("gpt2",),
    blocks="transformer.h",
    embeddings="transformer.wte",
    final_norm="transformer.ln_f",
    head="lm_head",
    attention_output="attn.c_proj",
)
