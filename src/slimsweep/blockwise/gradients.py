"""The loss of a model on text, and gradients of it that are dropped as soon as they were seen."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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


def loss(model: LanguageModel, token_ids: Int[Tensor, "batch token"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the next tokens; of a classifier, that of the label it finds most likely itself."""
    token_ids = token_ids.to(model.compute_device)
    if not model.module.can_generate():
        logits = model.module(input_ids=token_ids).logits.float()
        return cross_entropy(logits, logits.detach().argmax(dim=-1))
    logits = model.module(input_ids=token_ids, use_cache=False).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten())
