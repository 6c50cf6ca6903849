"""A small BERT with two labels."""

from slimsweep.models.sources.random import RandomModel

SHAPE = {
    "model_type": "bert",
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def small_classifier(folder) -> RandomModel:
    """Random BERT with one id per byte and two labels."""
    return RandomModel(name="bert", task="sequence_classification", shape=SHAPE, cache_dir=str(folder))
