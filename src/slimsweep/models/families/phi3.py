"""Phi-3: one fused qkv projection and one fused gate-up projection a block."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("phi3",),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_output="self_attn.o_proj",
)
