"""OPT; the 350M has neither a final norm nor embeddings of the residual width (project_in, project_out)."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("opt",),
    blocks="model.decoder.layers",
    embeddings="model.decoder.embed_tokens",
    final_norm="model.decoder.final_layer_norm",
    head="lm_head",
    attention_inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.out_proj",
    head_width="self_attn.head_dim",
    head_counts={"self_attn.num_heads": "heads"},
    mlp_inputs=("fc1",),
    mlp_output="fc2",
    norms=("self_attn_layer_norm", "final_layer_norm"),
    residual_writers=("model.decoder.embed_positions", "model.decoder.project_in"),
    residual_readers=("lm_head", "model.decoder.project_out"),
    projections=("model.decoder.project_in", "model.decoder.project_out"),
    neurons_field="ffn_dim",
)
