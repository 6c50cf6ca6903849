"""DistilBERT with a classification head, which reads the first token only."""

from slimsweep.models.families import Family

FAMILY = Family(
    model_types=("distilbert",),
    blocks="distilbert.transformer.layer",
    embeddings="distilbert.embeddings.word_embeddings",
    head="classifier",
    attention_output="attention.out_lin",
    pooled=("pre_classifier", "classifier"),
)
