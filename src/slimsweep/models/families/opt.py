"""OPT; the 350M has neither a final norm nor embeddings of the residual width (project_in, project_out)."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("opt",),
    blocks="model.decoder.layers",
    embeddings="model.decoder.embed_tokens",
    final_norm="model.decoder.final_layer_norm",
    head="lm_head",
    attention_output="self_attn.out_proj",
)
