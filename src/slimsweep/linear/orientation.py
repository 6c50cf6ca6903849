"""Sizes and weight of any linear layer as [out in]; the weight of transformers' Conv1D (GPT-2) lies [in out]."""

from jaxtyping import Float
from torch import Tensor, nn


def is_transposed(layer: nn.Module) -> bool:
    """True for Conv1D, whose weight lies [in out] and whose sizes have other names."""
    return type(layer).__name__ == "Conv1D"


def layer_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, whatever form its weight is stored in; of an embedding (vocabulary, width)."""
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return (layer.nf, layer.nx) if is_transposed(layer) else (layer.out_features, layer.in_features)


def set_size(layer: nn.Module, dim: int, count: int) -> None:
    """Set the number of outputs (dim 0) or inputs (dim 1) that a layer says it has; its weight is not changed."""
    names = ("nf", "nx") if is_transposed(layer) else ("out_features", "in_features")
    setattr(layer, names[dim], count)


def weight_2d(layer: nn.Module) -> Float[Tensor, "out in"]:
    """A layer's weight as [out in].

    A view, so writing to it changes the model; but of a form it is what that stands for, computed anew.
    """
    weight = layer.weight.detach()
    return weight.T if is_transposed(layer) else weight
