"""Store weights in 8 bits and multiply in 8 bits, but for input channels with outliers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.checks import number_faults
from slimsweep.linear.backends import bitsandbytes_faults
from slimsweep.linear.base import PackedLinear
from slimsweep.linear.llm_int8 import LLMInt8Linear
from slimsweep.techniques.quantization.base import Quantizer


@dataclass(frozen=True, kw_only=True)
class Int8(Quantizer):
    """LLM.int8: vector-wise int8 with outliers in the model's dtype. Source: arXiv:2208.07339, sec. 3.

    Departures are said at `packed.llm_int8`. 0 is a level, so zeros stay zeros with `preserve_sparsity` or without.
    """

    version: ClassVar[int] = 1

    threshold: float | int = 6.0
    """Magnitude from which an input is an outlier, whose channel is not multiplied in 8 bits; 0: all are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", float(self.threshold))

    def _bad_values(self) -> list[str]:
        meaning = "a magnitude of inputs; 0 multiplies all of them in 8 bits"
        return super()._bad_values() + number_faults("threshold", self.threshold, "[0, inf)", meaning)

    def device_faults(self, device: str) -> list[str]:
        return bitsandbytes_faults(device)

    def form(self, shape: tuple[int, int]) -> tuple[type[PackedLinear], dict[str, Any]]:
        return LLMInt8Linear, {"threshold": self.threshold}

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> LLMInt8Linear:
        return LLMInt8Linear.from_weight(weight, self.form(tuple(weight.shape))[1])
