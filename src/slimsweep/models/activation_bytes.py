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
PRODUCTS = {functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.addmm, torch.baddbmm}
"""Operations that autocast computes in 16 bits; transformers' models use no other one of its list."""


def activation_bytes(skeleton: LanguageModel, batch: Batch, trained: Iterable[nn.Parameter]) -> int:
    """Bytes of all tensors that autograd keeps of one forward with its loss; parameters are not among them.

    The loss is that of the model's task. Storages are counted once, as autograd shares them. A model in 16 bits is
    trained under autocast: trained parameters are in fp32, and copies of them in 16 bits are kept.

    Args:
        skeleton: model on the meta device, in the dtype of the job; its parameters are not changed.
        batch: batch of the shape of a training step; values are not read.
        trained: parameters that ask for gradients.
    """
    trained, kept, dtype = list(trained), {}, skeleton.dtype
    before = [parameter.data for parameter in trained]
    for parameter in trained:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    weights = {parameter.untyped_storage()._cdata for parameter in skeleton.module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no later storage takes its address
        return tensor

    try:
        shapes = {name: values.to(META) for name, values in batch.items()}
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with torch.enable_grad(), _WithoutValues(dtype), hooks:
            skeleton.task.loss(skeleton.module, shapes)
    finally:
        for parameter, data in zip(trained, before, strict=True):
            parameter.requires_grad_(False)
            parameter.data = data
    return sum(storage.nbytes() for storage in kept.values())


class _WithoutValues(TorchFunctionMode):
    """Answer reads of values with zero, and compute as training does: under autocast, and with fused attention.

    Fused kernels keep no attention map. The meta device has no autocast of its own.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.product_dtype = None if dtype == torch.float32 else dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS and args[0].is_meta:
            return READS[func](0)
        if self.product_dtype and (func in PRODUCTS or func is functional.scaled_dot_product_attention):
            args = [self._cast(one) for one in args]
            kwargs = {name: self._cast(one) for name, one in (kwargs or {}).items()}
        if func is functional.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))

    def _cast(self, value: Any) -> Any:
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(self.product_dtype) if is_number else value


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
