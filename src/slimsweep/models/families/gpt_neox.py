"""GPT-NeoX and Pythia: attention and MLP of a block read the same residual in parallel."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("gpt_neox",),
    blocks="gpt_neox.layers",
    embeddings="gpt_neox.embed_in",
    final_norm="gpt_neox.final_layer_norm",
    head="lm_head",
    attention_output="attention.dense",
)
