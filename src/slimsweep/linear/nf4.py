"""Codes of 4 bits into a table of 16 levels, which the largest magnitude of each block scales, as in bitsandbytes."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor
from torch.nn import functional

from slimsweep.linear.backends import bitsandbytes_functional
from slimsweep.linear.base import Layout, PackedLinear

ABSMAX_BLOCK = 256  # magnitudes that share a scale under double quantization; fixed in bitsandbytes
KERNEL_BLOCK = 1024  # larger blocks have no fast kernel on CPUs


class NF4Linear(PackedLinear):
    """Weights as NF4 or FP4 codes, two in a byte, the first in the high half.

    Blocks run over the flattened weight, so one may span rows; the last may be shorter. Tensors: `weight_packed`,
    `weight_levels` (the 16 levels, in the order of codes), `weight_absmax` (a magnitude for each block). With double
    quantization the magnitudes are codes themselves: `absmax_levels[weight_absmax]` x `absmax_scale` (one for each 256
    blocks) + `absmax_offset`. Settings: `quant_type`, `block_size`, `double_quantization`, `compute_dtype` (null: that
    of the model).
    """

    kind = "nf4"

    @classmethod
    def from_weight(cls, weight: Float[Tensor, "out in"], settings: dict[str, Any]) -> "NF4Linear":
        """Quantize a weight; zeros are level 0 on every backend."""
        packed, state = bitsandbytes_functional().quantize_4bit(
            weight.contiguous(),
            blocksize=settings["block_size"],
            compress_statistics=settings["double_quantization"],
            quant_type=settings["quant_type"],
        )
        tensors = {"weight_packed": packed.flatten(), "weight_levels": state.code, "weight_absmax": state.absmax}
        if settings["double_quantization"]:
            tensors["absmax_levels"], tensors["absmax_scale"] = state.state2.code, state.state2.absmax
            tensors["absmax_offset"] = state.offset
        layer = cls(tuple(weight.shape), settings, tensors)
        # A block of zeros alone is 0 / 0, of which kernels make different codes.
        layer.weight_packed.data = packed_codes(layer.with_zeros(layer.codes(), weight.flatten() == 0))
        return layer

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        weights = math.prod(shape)
        blocks = math.ceil(weights / settings["block_size"])
        layout: Layout = {
            "weight_packed": ((math.ceil(weights / 2),), torch.uint8),
            "weight_levels": ((16,), torch.float32),
            "weight_absmax": ((blocks,), torch.float32),
        }
        if settings["double_quantization"]:
            layout["weight_absmax"] = ((blocks,), torch.uint8)
            layout["absmax_levels"] = ((256,), torch.float32)
            layout["absmax_scale"] = ((math.ceil(blocks / ABSMAX_BLOCK),), torch.float32)
            layout["absmax_offset"] = ((), torch.float32)
        return layout

    @property
    def code_bits(self) -> int | float:
        return 4

    def absmax(self) -> Float[Tensor, " block"]:
        """The magnitude of each block in fp32; under double quantization what its code stands for, even below 0."""
        if not self.settings["double_quantization"]:
            return self.weight_absmax.data
        scale = self.absmax_scale.data.repeat_interleave(ABSMAX_BLOCK)[: len(self.weight_absmax)]
        return self.absmax_levels.data[self.weight_absmax.data.int()] * scale + self.absmax_offset.data

    def codes(self) -> UInt8[Tensor, " weight"]:
        """The code of each weight, of the flattened weight in order."""
        packed = self.weight_packed.data
        return torch.stack((packed >> 4, packed & 15), dim=1).flatten()[: self.out_features * self.in_features]

    def with_zeros(
        self, codes: Integer[Tensor, " weight"], zeros: Bool[Tensor, " weight"]
    ) -> Integer[Tensor, " weight"]:
        """Codes that stand for 0 where `zeros` says so."""
        zero = int((self.weight_levels == 0).nonzero()[0])
        return codes.masked_fill(zeros, zero)

    def dequantized(self) -> Float[Tensor, "out in"]:
        return self.values(self.dtype)

    def values(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The weights in a dtype: levels times magnitudes in fp32, rounded once."""
        kernels = bitsandbytes_functional()
        block, weights = self.settings["block_size"], self.out_features * self.in_features
        step, absmax = min(block, KERNEL_BLOCK), self.absmax()
        if block > step:  # equal neighbouring magnitudes make one large block of several small ones
            absmax = absmax.repeat_interleave(block // step)
        # As a single row of even length: with several rows the CPU kernel of bitsandbytes 0.50 takes wrong magnitudes
        # wherever a block spans two of them.
        state = kernels.QuantState(
            absmax,
            shape=torch.Size((1, 2 * len(self.weight_packed))),
            code=self.weight_levels.data,
            blocksize=step,
            quant_type=self.settings["quant_type"],
            dtype=dtype,
        )
        flat = kernels.dequantize_4bit(self.weight_packed.data[:, None], state).flatten()
        return flat[:weights].view(self.out_features, self.in_features)

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.settings["compute_dtype"] is None:
            return super().forward(inputs)
        dtype = getattr(torch, self.settings["compute_dtype"])
        bias = None if self.bias is None else self.bias.to(dtype)
        return functional.linear(inputs.to(dtype), self.values(dtype), bias).to(inputs.dtype)

    def requantize(self, weight: Float[Tensor, "out in"]) -> "NF4Linear":
        flat, block = weight.float().flatten(), self.settings["block_size"]
        absmax = self.absmax()
        scale = torch.where(absmax == 0, 1, absmax).repeat_interleave(block)[: len(flat)]
        levels, order = self.weight_levels.data.sort()
        codes = order[torch.bucketize(flat / scale, (levels[:-1] + levels[1:]) / 2)]
        tensors = {name: tensor.data for name, tensor in self.storage.items()}
        tensors["weight_packed"] = packed_codes(codes)
        return NF4Linear((self.out_features, self.in_features), self.settings, tensors)


def packed_codes(codes: Integer[Tensor, " weight"]) -> UInt8[Tensor, " byte"]:
    """Two codes in each byte, the first in the high half; a last one alone is followed by 0."""
    codes = functional.pad(codes.to(torch.uint8), (0, len(codes) % 2))
    return codes[::2] << 4 | codes[1::2]
