"""8-bit integers with a scale for each row, multiplied as integers with inputs rounded to 8 bits for each token."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from slimsweep.linear.base import Layout, PackedLinear
from slimsweep.numerics import uniform_grid
from slimsweep.numerics.uniform_grid import Grid

BITS = 8
CUDA_ROWS, CUDA_STEP = 32, 8
"""The integer product of CUDA wants more than 16 rows, and widths that are multiples of 8."""


class DynamicInt8Linear(PackedLinear):
    """Weights and inputs of 8 bits, symmetric; the scale of each token is found when it comes.

    A token's scale is its largest magnitude / 127.5 and its codes go from -128 to 127, in fp32 whatever the inputs are.
    Products are summed as integers and so exact; scales and bias come after. In training mode of autograd the same is
    computed in floats, and gradients pass the rounding as if it were not there.

    Tensors are those of compressed-tensors' `int-quantized`. Plain transformers computes with floats in the dtype of
    the model. In fp32 its results differ in the last bits only. In bf16 its scales, inputs and products are rounded. In
    a deep model a last bit can change a code, and the change grows from layer to layer. Measured relative change of
    SmolLM2's logits (norm): 9 % if the embeddings are multiplied by 1 + 3e-7. From this layer to that of transformers
    in fp32 it is 15 %, and from the dense model to this layer 11 to 20 %.
    """

    kind = "dynamic_int8"
    file_names: ClassVar[dict[str, str]] = {"weight_codes": "weight"}

    @classmethod
    def from_weight(cls, weight: Float[Tensor, "out in"]) -> "DynamicInt8Linear":
        """Round a weight to the nearest levels of its rows."""
        return cls._on(uniform_grid.fit(weight, "symmetric", BITS, None), weight)

    @classmethod
    def _on(cls, levels: Grid, weight: Float[Tensor, "out in"]) -> "DynamicInt8Linear":
        tensors = {"weight_codes": levels.quantize(weight), "weight_scale": levels.scale.to(torch.bfloat16)}
        return cls((weight.shape[0], weight.shape[1]), {}, tensors)

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        return {"weight_codes": (shape, torch.int8), "weight_scale": ((shape[0], 1), torch.bfloat16)}

    def compressed_tensors_scheme(self) -> dict[str, Any] | None:
        common = {"num_bits": BITS, "type": "int", "symmetric": True}
        return {
            "format": "int-quantized",
            "weights": {**common, "strategy": "channel"},
            "input_activations": {**common, "strategy": "token", "dynamic": True},
        }

    @property
    def code_bits(self) -> int | float:
        return BITS

    def dequantized(self) -> Float[Tensor, "out in"]:
        return self.weight_codes.to(self.dtype).mul_(self.weight_scale.to(self.dtype))

    def requantize(self, weight: Float[Tensor, "out in"]) -> "DynamicInt8Linear":
        scale = self.weight_scale.float()
        return self._on(Grid("symmetric", BITS, scale, torch.zeros_like(scale)), weight.float())

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        codes, scale = rounded_tokens(inputs.detach())
        if torch.is_grad_enabled() and inputs.requires_grad:
            rounded = inputs + ((codes * scale).to(inputs.dtype) - inputs).detach()
            return functional.linear(rounded, self.dequantized(), self.bias)
        sums = integer_product(codes.flatten(0, -2), self.weight_codes)
        outputs = sums.unflatten(0, inputs.shape[:-1]) * scale * self.weight_scale.float().squeeze(1)
        return (outputs if self.bias is None else outputs + self.bias.float()).to(inputs.dtype)


def rounded_tokens(inputs: Float[Tensor, "*batch in"]) -> tuple[Int[Tensor, "*batch in"], Float[Tensor, "*batch 1"]]:
    """Codes of 8 bits and the scale of each token; a token of zeros has a scale of 1."""
    values = inputs.float()
    scale = values.abs().amax(dim=-1, keepdim=True) / ((2**BITS - 1) / 2)
    scale = torch.where(scale == 0, 1.0, scale)
    return (values / scale).round_().clamp_(-(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1).to(torch.int8), scale


def integer_product(inputs: Int[Tensor, "token in"], weight: Int[Tensor, "out in"]) -> Int[Tensor, "token out"]:
    """inputs weight^T in 32-bit integers."""
    tokens, rows = len(inputs), len(weight)
    if inputs.is_cuda:
        inputs, weight = widened(inputs, weight)
    return torch._int_mm(inputs, weight.T)[:tokens, :rows]


def widened(
    inputs: Int[Tensor, "token in"], weight: Int[Tensor, "out in"]
) -> tuple[Int[Tensor, "rows width"], Int[Tensor, "outputs width"]]:
    """Both with zeros added, which change no product, until CUDA's kernel takes them."""
    wider = -inputs.shape[1] % CUDA_STEP
    return (
        functional.pad(inputs, (0, wider, 0, max(CUDA_ROWS - len(inputs), 0))),
        functional.pad(weight, (0, wider, 0, -len(weight) % CUDA_STEP)),
    )
