"""The loss of a model on text, and gradients of it that are dropped as soon as they were seen."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.models.batches import Batch, split, to_device
from slimsweep.models.language_model import LanguageModel


@contextmanager
def gradients(parameters: Sequence[nn.Parameter], take: Callable[[nn.Parameter], None]):
    """Let `take` see the gradient of each parameter as soon as it is known; it is dropped right after."""

    def taken(parameter: nn.Parameter) -> None:
        take(parameter)
        parameter.grad = None

    handles = []
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(taken))
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters:
            parameter.requires_grad_(False)


def loss(model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
    """Mean loss of the model's task over everything that the batch predicts, in nats."""
    return model.task.loss(model.module, to_device(batch, model.compute_device))


def sequence_losses(model: LanguageModel, batch: Batch) -> tuple[list[Float[Tensor, ""]], list[int]]:
    """Mean loss of each sequence, and the number of its predictions."""
    sequences = list(split(batch, 1))
    return [loss(model, one) for one in sequences], [model.task.predictions(one) for one in sequences]
