"""OLMo 2: Llama's parts; norms after attention and MLP, and norms over all queries and all keys of a block."""

from dataclasses import replace

from slimsweep.models.families.llama import FAMILY as LLAMA

FAMILY = replace(
    LLAMA,
    model_types=("olmo2",),
    head_norms=("self_attn.q_norm", "self_attn.k_norm"),
    norms=("post_attention_layernorm", "post_feedforward_layernorm"),
)
