"""Diagonal of the Fisher information: the curvature of the loss along each weight, from gradients on text."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.blockwise.gradients import gradients, loss
from slimsweep.linear.base import packed_layers, set_layer
from slimsweep.linear.orientation import is_transposed
from slimsweep.models.batches import Batch, split
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.finite import all_finite, non_finite_error


def fisher_diagonal(model: LanguageModel, names: list[str], batch: Batch) -> dict[str, Float[Tensor, "out in"]]:
    """The diagonal Fisher information of the named linear layers' weights, in nats per token, fp32.

    It is the sum over sequences s of (dL_s/dw)^2, divided by T. L_s is the summed loss of a sequence, T the number of
    predictions in all sequences. Half of it times a small change squared is the expected rise of the mean loss of a
    prediction. A classifier predicts once for each sequence (see its `Task` for the loss without labels).

    Holds one fp32 number for each weight of these layers, and the gradient of one at a time. A packed layer counts with
    its dequantised weight, and the rounding of inputs is left out. The model is what it was afterwards.

    Raises:
        ModelError: gradients that are not finite; names the layers.
    Source: arXiv:2306.07629, sec. 4.1; Fisher by the gradients of whole sequences.
    """
    with dense_weights(model):
        weights = {name: model.module.get_submodule(name).weight for name in names}
        sums = {id(weight): torch.zeros_like(weight, dtype=torch.float32) for weight in weights.values()}

        def add(parameter: nn.Parameter) -> None:
            slope = parameter.grad.float()
            sums[id(parameter)].addcmul_(slope, slope)

        with gradients(list({id(weight): weight for weight in weights.values()}.values()), add):
            for one in split(batch, 1):
                # Summed, not mean: the slopes of a mean are near the least that fp16 can tell from 0.
                (model.task.predictions(one) * loss(model, one)).backward()
        predicted = model.task.predictions(batch)
        information = {name: sums[id(weight)].div_(predicted) for name, weight in weights.items()}
    if bad := [name for name, values in information.items() if not all_finite(values)]:
        raise non_finite_error(f"The gradients of {', '.join(bad)} are not finite", "compress less before")
    layers = {name: model.module.get_submodule(name) for name in names}
    return {name: values.T if is_transposed(layers[name]) else values for name, values in information.items()}


@contextmanager
def dense_weights(model: LanguageModel) -> Iterator[None]:
    """Dense layers in the place of all packed ones, so that gradients pass through them and reach their weights."""
    with dense_layers(model.module):
        yield


@contextmanager
def dense_layers(module: nn.Module) -> Iterator[None]:
    """Dense layers in the place of the packed ones of a module, such as a block."""
    dense: dict[str, nn.Module] = {}
    for name, layer in packed_layers(module).items():
        dense[name] = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        dense[name].weight = nn.Parameter(layer.dequantized(), requires_grad=False)
        dense[name].bias = layer.bias
    with replaced(module, dense):
        yield


@contextmanager
def replaced(module: nn.Module, layers: dict[str, nn.Module]) -> Iterator[None]:
    """Other layers in the places of those of these names, for a while."""
    before = {name: module.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            set_layer(module, name, layer)
        yield
    finally:
        for name, layer in before.items():
            set_layer(module, name, layer)
