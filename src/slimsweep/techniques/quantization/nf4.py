"""Store weights in 4 bits of a table made for normally distributed values."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.linear.backends import bitsandbytes_faults
from slimsweep.linear.base import PackedLinear
from slimsweep.linear.nf4 import NF4Linear
from slimsweep.techniques.quantization.base import Quantizer, flag_faults, is_whole_number

QUANT_TYPES = ("nf4", "fp4")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
COMPUTE_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class NF4(Quantizer):
    """NormalFloat or Float of 4 bits in blocks, by bitsandbytes. Source: arXiv:2305.14314, sec. 3.

    Blocks run over the flattened weight. A block may span rows, and the last one may be shorter, so any width fits.
    0 is a level of both tables, so zeros stay zeros even without `preserve_sparsity`. Weights near 0 become zeros too;
    the report counts them.
    """

    version: ClassVar[int] = 1

    quant_type: str = "nf4"
    """`nf4`: levels are quantiles of a normal distribution; `fp4`: 2 bits of exponent and 1 of mantissa."""
    block_size: int = 64
    """Neighbouring weights that share a magnitude: 32, 64, 128, 256, 512, 1024, 2048 or 4096."""
    double_quantization: bool = True
    """Whether the magnitudes are stored in 8 bits, in blocks of 256: 4.127 bits a weight for 4.5, at block size 64."""
    compute_dtype: str | None = None
    """Dtype of the product, `bfloat16`, `float16` or `float32`; null: the model's own."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        if self.quant_type not in QUANT_TYPES:
            faults.append(f"quant_type={self.quant_type!r}: give {' or '.join(QUANT_TYPES)}")
        if not is_whole_number(self.block_size) or self.block_size not in BLOCK_SIZES:
            faults.append(f"block_size={self.block_size!r}: bitsandbytes has {', '.join(map(str, BLOCK_SIZES))}")
        faults += flag_faults("double_quantization", self.double_quantization)
        if self.compute_dtype is not None and self.compute_dtype not in COMPUTE_DTYPES:
            faults.append(
                f"compute_dtype={self.compute_dtype!r}: give {', '.join(COMPUTE_DTYPES)}, or null for the model's own"
            )
        return faults

    def device_faults(self, device: str) -> list[str]:
        return bitsandbytes_faults(device)

    def form(self, shape: tuple[int, int]) -> tuple[type[PackedLinear], dict[str, Any]]:
        return NF4Linear, {
            "quant_type": self.quant_type,
            "block_size": self.block_size,
            "double_quantization": self.double_quantization,
            "compute_dtype": self.compute_dtype,
        }

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> NF4Linear:
        return NF4Linear.from_weight(weight, self.form(tuple(weight.shape))[1])
