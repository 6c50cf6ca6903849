"""Bytes of the activations that a backward pass needs, counted on shapes alone."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from slimsweep.models.batches import Batch
from slimsweep.models.dependency_trace import READS
from slimsweep.models.language_model import LanguageModel

META = torch.device("meta")


def activation_bytes(skeleton: LanguageModel, batch: Batch, trained: Iterable[nn.Parameter]) -> int:
    """Bytes of all tensors that autograd keeps of one forward with its loss; parameters are not among them.

    The loss is that of the model's task. Storages are counted once, as autograd shares them.

    Args:
        skeleton: model on the meta device; its parameters are not changed.
        batch: batch of the shape of a training step; values are not read.
        trained: parameters that ask for gradients.
    """
    kept: dict[int, Any] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in skeleton.module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no later storage takes its address
        return tensor

    trained = list(trained)
    for parameter in trained:
        parameter.requires_grad_(True)
    try:
        shapes = {name: values.to(META) for name, values in batch.items()}
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with torch.enable_grad(), _WithoutValues(), hooks:
            skeleton.task.loss(skeleton.module, shapes)
    finally:
        for parameter in trained:
            parameter.requires_grad_(False)
    return sum(storage.nbytes() for storage in kept.values())


class _WithoutValues(TorchFunctionMode):
    """Answer reads of values with zero, and attend as the fused kernels do, which keep no attention map."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS and args[0].is_meta:
            return READS[func](0)
        if func is functional.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _FusedAttention(torch.autograd.Function):
    """Shapes of a fused attention: it keeps queries, keys, values, outputs and one number for each query."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        context.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(one) for one in context.saved_tensors[:3])
