"""StableLM: Llama's parts; the 12B has a norm for each head, and attention and MLP in parallel."""

from dataclasses import replace

from slimsweep.models.families.llama import FAMILY as LLAMA

FAMILY = replace(
    LLAMA,
    model_types=("stablelm",),
    head_counts={"self_attn.num_heads": "heads", "self_attn.num_key_value_heads": "key_value_heads"},
    head_norms=("self_attn.q_layernorm.norms", "self_attn.k_layernorm.norms"),
)
