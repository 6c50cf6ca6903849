"""BERT with a classification head; the pooler and the classifier read the first token only."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("bert",),
    blocks="bert.encoder.layer",
    embeddings="bert.embeddings.word_embeddings",
    head="classifier",
    attention_inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    head_width="attention.self.attention_head_size",
    head_counts={"attention.self.num_attention_heads": "heads", "attention.self.all_head_size": "width"},
    mlp_inputs=("intermediate.dense",),
    mlp_output="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    residual_writers=(
        "bert.embeddings.position_embeddings",
        "bert.embeddings.token_type_embeddings",
        "bert.embeddings.LayerNorm",
    ),
    residual_readers=("bert.pooler.dense",),
    pooled=("bert.pooler.dense", "classifier"),
)
