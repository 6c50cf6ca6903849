"""Qwen 2, 2.5 and 3: Llama's parts; version 2 has biases on q, k, v, version 3 norms on q, k."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("qwen2", "qwen3"),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention_output="self_attn.o_proj",
)
