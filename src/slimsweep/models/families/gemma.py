"""Gemma 2 and the text models of Gemma 3: tied head, bounded logits, lost without a leading BOS."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("gemma2", "gemma3_text"),
    blocks="model.layers",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    head_softcap="final_logit_softcapping",
    attention_output="self_attn.o_proj",
    bos_every_window=True,
)
