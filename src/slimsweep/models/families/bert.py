"""BERT with a classification head; the pooler and the classifier read the first token only."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("bert",),
    blocks="bert.encoder.layer",
    embeddings="bert.embeddings.word_embeddings",
    head="classifier",
    attention_output="attention.output.dense",
    pooled=("bert.pooler.dense", "classifier"),
)
