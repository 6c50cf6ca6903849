"""RoBERTa with a classification head, which reads the first token only."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("roberta",),
    blocks="roberta.encoder.layer",
    embeddings="roberta.embeddings.word_embeddings",
    head="classifier.out_proj",
    attention_inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    head_width="attention.self.attention_head_size",
    head_counts={"attention.self.num_attention_heads": "heads", "attention.self.all_head_size": "width"},
    mlp_inputs=("intermediate.dense",),
    mlp_output="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    residual_writers=(
        "roberta.embeddings.position_embeddings",
        "roberta.embeddings.token_type_embeddings",
        "roberta.embeddings.LayerNorm",
    ),
    residual_readers=("classifier.dense",),
    pooled=("classifier.dense", "classifier.out_proj"),
)
