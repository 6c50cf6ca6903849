"""Llama 1 to 3 and its many relatives (SmolLM2, TinyLlama)."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("llama",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_output="self_attn.o_proj",
)
