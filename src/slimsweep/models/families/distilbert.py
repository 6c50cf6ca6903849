"""DistilBERT with a classification head, which reads the first token only."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("distilbert",),
    blocks="distilbert.transformer.layer",
    embeddings="distilbert.embeddings.word_embeddings",
    head="classifier",
    attention_inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    attention_output="attention.out_lin",
    head_width="attention.attention_head_size",
    head_counts={"attention.n_heads": "heads"},
    mlp_inputs=("ffn.lin1",),
    mlp_output="ffn.lin2",
    norms=("sa_layer_norm", "output_layer_norm"),
    residual_writers=("distilbert.embeddings.position_embeddings", "distilbert.embeddings.LayerNorm"),
    residual_readers=("pre_classifier",),
    neurons_field="hidden_dim",
    pooled=("pre_classifier", "classifier"),
)
