"""Mistral 7B: Llama's parts with sliding-window attention."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("mistral",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_output="self_attn.o_proj",
)
