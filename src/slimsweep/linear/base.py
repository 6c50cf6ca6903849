"""Linear layers whose weights are stored in few bits: one file per form of storage, found by scanning this package.

A form is a subclass of `PackedLinear` with a `kind`, its `layout`, and how its tensors become weights again.
"""

import functools
import importlib
import pkgutil
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from slimsweep.linear.mask import hand_over

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each stored tensor, by name."""


class PackedLinear(nn.Module):
    """A linear layer that holds its weight as packed tensors and computes with what they stand for.

    The tensors are parameters without gradient, so that sizes, digests, copies and moves between devices see all of
    them. A forward equals that of a dense layer with the weight `dequantized`, unless the kind rounds its inputs too.
    """

    kind: ClassVar[str]
    """Its word in manifests and reports."""
    file_names: ClassVar[dict[str, str]] = {}
    """Names in a file of tensors that other readers look for under another name than their parameter has."""

    def __init__(self, shape: tuple[int, int], settings: dict[str, Any], tensors: dict[str, Tensor]):
        super().__init__()
        self.out_features, self.in_features = shape
        self.settings = settings
        """Plain values that are needed to read the tensors."""
        self.dtype = torch.float32
        """Dtype of the dequantized weight; set by `install`."""
        self.bias: nn.Parameter | None = None
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor.contiguous(), requires_grad=False))

    @classmethod
    @abstractmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        """Shapes and dtypes that a layer of this shape (out, in) and these settings stores."""

    @classmethod
    def empty(cls, shape: tuple[int, int], settings: dict[str, Any], device: torch.device | str = "meta") -> Any:
        """A layer whose tensors hold nothing yet."""
        tensors = {
            name: torch.empty(size, dtype=dtype, device=device)
            for name, (size, dtype) in cls.layout(shape, settings).items()
        }
        return cls(shape, settings, tensors)

    @property
    @abstractmethod
    def code_bits(self) -> int | float:
        """Bits of one weight's code, without scales and tables."""

    @property
    def storage(self) -> dict[str, nn.Parameter]:
        """The packed tensors by name, the bias not among them."""
        return {name: tensor for name, tensor in self.named_parameters() if name != "bias"}

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of all packed tensors for each weight."""
        return 8 * sum(tensor.nbytes for tensor in self.storage.values()) / (self.out_features * self.in_features)

    @abstractmethod
    def dequantized(self) -> Float[Tensor, "out in"]:
        """The weights that the tensors stand for, in `dtype`."""

    @abstractmethod
    def requantize(self, weight: Float[Tensor, "out in"]) -> "PackedLinear":
        """A layer of the same kind and levels that holds what is nearest to a changed weight.

        Zeros stay exact zeros; a weight that is one of the levels already stays what it is.
        """

    def compressed_tensors_scheme(self) -> dict[str, Any] | None:
        """The scheme, with its `format`, by which compressed-tensors reads these tensors; None where it has none."""
        return None

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """Dense weight, computed anew at each access, so writing to it changes nothing."""
        return self.dequantized()

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return functional.linear(inputs, self.dequantized(), self.bias)

    def extra_repr(self) -> str:
        return f"{self.kind}, in={self.in_features}, out={self.out_features}, {self.settings}"


@functools.cache
def kinds() -> dict[str, type[PackedLinear]]:
    """Every form of storage by its `kind`."""
    room = importlib.import_module(__package__)
    modules = [importlib.import_module(f"{__package__}.{info.name}") for info in pkgutil.iter_modules(room.__path__)]
    classes = [item for module in modules for item in vars(module).values() if isinstance(item, type)]
    return {item.kind: item for item in classes if issubclass(item, PackedLinear) and "kind" in vars(item)}


def packed_layers(module: nn.Module) -> dict[str, PackedLinear]:
    """The packed layers of a model by full name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, PackedLinear)}


def dense_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by name, tied ones once, but for the tensors that packed layers store."""
    storage = {id(tensor) for layer in packed_layers(module).values() for tensor in layer.storage.values()}
    return {name: parameter for name, parameter in module.named_parameters() if id(parameter) not in storage}


def install(module: nn.Module, name: str, packed: PackedLinear) -> None:
    """Put a packed layer in the place of the linear layer of that name, whose bias, dtype and mask it takes over."""
    layer = module.get_submodule(name)
    packed.dtype = layer.dtype if isinstance(layer, PackedLinear) else layer.weight.dtype
    packed.bias = layer.bias
    hand_over(layer, packed)
    holder, _, last = name.rpartition(".")
    setattr(module.get_submodule(holder), last, packed)


def relative_error(stored: Float[Tensor, "out in"], wanted: Float[Tensor, "out in"]) -> float:
    """Frobenius norm of the difference over that of what was wanted; 0 where both are zero, NaN where either is."""
    difference, norm = (stored.float() - wanted).norm(), wanted.norm()
    return 0.0 if norm == 0 and difference == 0 else float(difference / norm)


def is_linear(layer: nn.Module) -> bool:
    """True for nn.Linear, packed or not, and for GPT-2's Conv1D."""
    return isinstance(layer, nn.Linear | PackedLinear) or type(layer).__name__ == "Conv1D"


def weight_2d(linear: nn.Module) -> Float[Tensor, "out in"]:
    """A layer's weight as [out in]; Conv1D is transposed.

    A view, so writing to it changes the model; but of a packed layer it is what that stands for, computed anew.
    """
    weight = linear.weight.detach()
    return weight if isinstance(linear, nn.Linear | PackedLinear) else weight.T


def layer_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, whatever form its weight is stored in."""
    if isinstance(layer, nn.Linear | PackedLinear):
        return layer.out_features, layer.in_features
    return layer.nf, layer.nx  # Conv1D
