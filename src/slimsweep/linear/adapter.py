"""Adapters: a product of two small factors beside a linear layer's own weight, plain or packed (LoRA)."""

import copy
import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from slimsweep.linear.base import Layout, LinearForm, PackedLinear, compute_dtype, kinds, layer_shape
from slimsweep.linear.mask import removed, set_removed
from slimsweep.linear.orientation import is_transposed, weight_2d


class AdapterLinear(LinearForm):
    """W + scale B A, with A (`down`) [rank in] and B (`up`) [out rank] beside the layer `base` that holds W.

    Source: LoRA, arXiv:2106.09685, eq. 3. Settings: `rank`, `scale`, `base`, the manifest entry of a packed base (null
    where it is plain), and `is_transposed` where the layer was a Conv1D. All numbers of A and B count as parameters of
    the model.
    """

    kind = "adapter"

    def __init__(self, shape: tuple[int, int], settings: dict[str, Any], base: nn.Module, factors: dict[str, Tensor]):
        super().__init__(shape, settings, factors)
        self.base = base
        self.keep: Bool[Tensor, "out in"] | None = None
        """False where a pruning stage removed the weight: the product adds nothing there. Not saved."""

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        """Shapes of the factors; the base has its own."""
        (rows, columns), rank = shape, settings["rank"]
        return {"down": ((rank, columns), torch.float32), "up": ((rows, rank), torch.float32)}

    @classmethod
    def empty(
        cls, shape: tuple[int, int], settings: dict[str, Any], device: torch.device | str = "meta"
    ) -> "AdapterLinear":
        entry = settings["base"]
        if entry is None:
            base = nn.Linear(shape[1], shape[0], bias=False, device=device).requires_grad_(False)
        else:
            base = kinds()[entry["kind"]].empty(shape, entry["settings"], device)
        factors = {name: torch.empty(size, device=device) for name, (size, _) in cls.layout(shape, settings).items()}
        return cls(shape, settings, base, factors)

    @classmethod
    def beside(
        cls, layer: nn.Module, down: Float[Tensor, "rank in"], up: Float[Tensor, "out rank"], scale: float = 1.0
    ):
        """An adapter beside a plain or packed layer, whose weight it shares; the bias is the adapter's."""
        base = _packed_without_bias(layer) if isinstance(layer, PackedLinear) else _without_bias(layer)
        settings = adapter_settings(layer, len(down), scale)
        return cls(layer_shape(layer), settings, base, {"down": down, "up": up})

    def rescaled(self, scale: float) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
        """Copies of A and B in fp32 that have the same product under another scale."""
        return self.down.float().clone(), self.up.float() * (self.settings["scale"] / scale)

    def hold_zeros(self, layer: nn.Module) -> None:
        """Let the product add nothing where the mask of a layer says that a weight was removed."""
        mask = removed(layer)
        self.keep = None if mask is None else ~mask

    @property
    def product(self) -> Float[Tensor, "out in"]:
        """Dense product of the factors, times the scale."""
        product = self.settings["scale"] * (self.up @ self.down)
        return product if self.keep is None else product * self.keep.to(product)

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        with torch.no_grad():
            return (self.base.weight.float() + self.product.float()).to(self.dtype)

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.keep is None:
            low = functional.linear(inputs.to(self.down.dtype), self.down)
            outputs = self.base(inputs) + (self.settings["scale"] * functional.linear(low, self.up)).to(inputs.dtype)
        else:  # the mask is of the product, so that is made
            outputs = functional.linear(inputs, self.base.weight + self.product.to(inputs.dtype))
        return outputs if self.bias is None else outputs + self.bias


def adapter_settings(layer: nn.Module, rank: int, scale: float) -> dict[str, Any]:
    """Settings of an adapter of some rank beside a layer."""
    entry = {"kind": layer.kind, "settings": layer.settings} if isinstance(layer, PackedLinear) else None
    settings = {"rank": rank, "scale": scale, "base": entry}
    return settings | {"is_transposed": True} if is_transposed(layer) else settings


def without_adapter(layer: nn.Module) -> nn.Module:
    """The layer that an adapter stands beside, with its bias and mask; any other layer itself."""
    if not isinstance(layer, AdapterLinear):
        return layer
    if layer.settings.get("is_transposed"):
        return _conv1d(layer)
    plain = copy.copy(layer.base)
    plain._parameters = dict(layer.base._parameters)
    plain.bias = layer.bias
    return plain


def _conv1d(layer: AdapterLinear) -> nn.Module:
    """GPT-2's own kind of layer, from the weight and bias of an adapter's base."""
    from transformers.pytorch_utils import Conv1D

    rows, columns = layer_shape(layer)
    with torch.device("meta"):
        plain = Conv1D(rows, columns)
    plain.weight = nn.Parameter(layer.base.weight.detach().T.contiguous(), requires_grad=False)
    plain.bias = layer.bias
    set_removed(plain, removed(layer.base))
    return plain


def drawn_factors(
    layer: nn.Module, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
    """Factors whose product is zero, A drawn and B zero, as in LoRA's code (Kaiming uniform, a = sqrt(5))."""
    rows, columns = layer_shape(layer)
    down = torch.empty(rank, columns)
    bound = 1 / math.sqrt(columns)
    down.uniform_(-bound, bound, generator=generator)
    device = next(layer.parameters()).device
    return down.to(device), torch.zeros(rows, rank, device=device)


def _packed_without_bias(layer: PackedLinear) -> PackedLinear:
    """A packed layer that shares the tensors and the mask of another one."""
    base = copy.copy(layer)
    base._parameters = {name: parameter for name, parameter in layer._parameters.items() if name != "bias"}
    base.bias = None
    return base


def _without_bias(layer: nn.Module) -> nn.Linear:
    """A linear layer with the weight and the mask of a plain one."""
    rows, columns = layer_shape(layer)
    base = nn.Linear(columns, rows, bias=False, device="meta", dtype=compute_dtype(layer))
    weight = weight_2d(layer)
    is_same = weight.data_ptr() == layer.weight.data_ptr() and isinstance(layer, nn.Linear)
    base.weight = layer.weight if is_same else nn.Parameter(weight.contiguous(), requires_grad=False)
    set_removed(base, removed(layer))
    return base
