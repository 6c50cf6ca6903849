"""Store weights as 8-bit integers and round inputs to 8 bits as they come."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.linear.base import PackedLinear
from slimsweep.linear.w8a8 import DynamicInt8Linear
from slimsweep.techniques.quantization.base import Quantizer


@dataclass(frozen=True, kw_only=True)
class DynamicInt8(Quantizer):
    """Dynamic quantization: a scale for each row of the weight, and one for each token found at run time.

    No text is needed. 0 is a level, so zeros stay zeros whatever `preserve_sparsity` says.

    Source: arXiv:2206.01861, sec. 4.1 (token-wise activations), with whole rows as the groups of the weight. torchao
    and torch have such layers. Ours runs torch's integer kernel too, but can be saved as safetensors, and SmoothQuant
    uses it as well.
    """

    version: ClassVar[int] = 1

    def form(self, shape: tuple[int, int]) -> tuple[type[PackedLinear], dict[str, Any]]:
        return DynamicInt8Linear, {}

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> DynamicInt8Linear:
        return DynamicInt8Linear.from_weight(weight)
