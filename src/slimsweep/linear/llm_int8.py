"""LLM.int8() layer: int8 weights and int8 inputs; input channels with outliers are multiplied in the model's dtype.

Weights have one scale per output row, inputs one scale per token:

    inputs   = [ other channels -> int8 | outlier channels in the model's dtype ]
    output   = int8 product * token scale * row scale  +  product of the outlier channels with dequantized weights
"""

from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from slimsweep.linear.backends import bitsandbytes_functional
from slimsweep.linear.base import Layout, PackedLinear

HIGHEST = 127
LEAST = 1e-36  # for a smaller absmax, 127 / absmax may overflow fp32


class LLMInt8Linear(PackedLinear):
    """Vector-wise int8: `weight_codes` [out in] and the largest magnitude of each row, `weight_absmax` [out].

    Settings: `threshold`. A value of at least this magnitude is an outlier; 0 switches outliers off. An input channel
    with an outlier in any token of the forward is an outlier channel. The output of a token therefore depends on the
    other tokens of its batch.

    Source: arXiv:2208.07339, sec. 3. Departures: outlier channels use the stored 8-bit weights, where the paper keeps
        16 bits. As in bitsandbytes, the scale of a token ignores its own outliers, but not the rest of the outlier
        channels. Unlike bitsandbytes, inputs are rounded from fp32: those of a bf16 model may overflow in fp16. The
        integer sums are scaled in fp32.
    """

    kind = "llm_int8"

    @classmethod
    def from_weight(cls, weight: Float[Tensor, "out in"], settings: dict[str, Any]) -> "LLMInt8Linear":
        """Quantize the rows of a weight; zeros stay exact zeros."""
        absmax = weight.abs().amax(dim=1)
        return cls(
            tuple(weight.shape), settings, {"weight_codes": rounded(weight, absmax), "weight_absmax": absmax.float()}
        )

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        return {"weight_codes": (shape, torch.int8), "weight_absmax": (shape[:1], torch.float32)}

    @property
    def code_bits(self) -> int | float:
        return 8

    @property
    def scale(self) -> Float[Tensor, " out"]:
        return self.weight_absmax.data / HIGHEST

    def dequantized(self) -> Float[Tensor, "out in"]:
        return (self.weight_codes.data.float() * self.scale[:, None]).to(self.dtype)

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        tokens = inputs.flatten(0, -2)
        values, threshold = tokens.float(), self.settings["threshold"]
        if threshold > 0:
            is_outlier = values.abs() >= threshold
            channels = is_outlier.any(dim=0).nonzero().flatten()
            values = values.masked_fill(is_outlier, 0)
        else:
            channels = torch.empty(0, dtype=torch.long, device=inputs.device)
        absmax = values.abs().amax(dim=1)
        codes = rounded(values.index_fill(1, channels, 0), absmax)
        sums = bitsandbytes_functional().int8_linear_matmul(codes, self.weight_codes.data)
        outputs = sums.float() * (absmax / HIGHEST)[:, None] * self.scale
        if len(channels):
            weight = (self.weight_codes.data[:, channels].float() * self.scale[:, None]).to(inputs.dtype)
            outputs += tokens[:, channels] @ weight.T
        if self.bias is not None:
            outputs += self.bias
        return outputs.to(inputs.dtype).unflatten(0, inputs.shape[:-1])

    def requantize(self, weight: Float[Tensor, "out in"]) -> "LLMInt8Linear":
        absmax = self.weight_absmax.data
        tensors = {"weight_codes": rounded(weight.float(), absmax), "weight_absmax": absmax}
        return LLMInt8Linear((self.out_features, self.in_features), self.settings, tensors)


def rounded(values: Float[Tensor, "row column"], absmax: Float[Tensor, " row"]) -> Int8[Tensor, "row column"]:
    """Round each row to int8 codes, `absmax` to 127; ties round to even. A row with absmax up to LEAST is zeros."""
    steps = torch.where(absmax > LEAST, HIGHEST / absmax, 0)
    return (values * steps[:, None]).round_().clamp_(-HIGHEST, HIGHEST).to(torch.int8)
