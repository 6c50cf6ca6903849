"""The linear protocol: what any linear layer tells of itself, whether it is plain, packed or of another form.

Plain are nn.Linear and transformers' Conv1D: they hold one dense weight. Whatever stands in their place is a
`LinearForm`. One that stores its weight as codes of few bits is a `PackedLinear`. Callers ask the functions of this
file, which take any linear layer, and never its class.
"""

import functools
import importlib
import math
import pkgutil
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from slimsweep.errors import ModelError
from slimsweep.linear.mask import hand_over
from slimsweep.linear.orientation import is_transposed, layer_shape, weight_2d

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each stored tensor, by name."""
PACKAGE = __package__.partition(".")[0]
_kinds: dict[str, type["LinearForm"]] = {}


class LinearForm(nn.Module):
    """A layer that stands where nn.Linear stood and holds its weight in another form, such as factors or codes.

    Its tensors are parameters without gradient, so that sizes, digests, copies and moves between devices see all of
    them. Floats among them are parameters of the model: they are counted one by one and take on its dtype. A subclass
    says its `kind`, its `layout` and its `weight`, and computes its `forward`.

    A saved model names the kind, by which loading finds the class again. The class may lie in any package that was
    imported before.
    """

    kind: ClassVar[str]
    """Its word in manifests and reports."""
    file_names: ClassVar[dict[str, str]] = {}
    """Names in a file of tensors that other readers look for under another name than their parameter has."""
    has_single_weights: ClassVar[bool] = False
    """Whether single weights can be removed or rounded in it; else techniques refuse it.

    Such a form has a method `requantize`, as PackedLinear has.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "kind" not in vars(cls):
            return
        other = _kinds.setdefault(cls.kind, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"{cls.__module__}.{cls.__qualname__} has the kind {cls.kind!r}, which is that of "
                f"{other.__module__}.{other.__qualname__} already: give it another word"
            )
        _kinds[cls.kind] = cls  # the newer one, where a module was loaded anew

    def __init__(self, shape: tuple[int, int], settings: dict[str, Any], tensors: dict[str, Tensor]):
        super().__init__()
        self.out_features, self.in_features = shape
        self.settings = settings
        """Plain values that are needed to read the tensors."""
        self.dtype = torch.float32
        """Dtype of `weight`; set by `install`."""
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
    def weight(self) -> Float[Tensor, "out in"]:
        """Dense weight in `dtype`, computed anew at each access, so writing to it changes nothing."""

    @property
    def storage(self) -> dict[str, nn.Parameter]:
        """The stored tensors by name, the bias not among them."""
        return {name: tensor for name, tensor in self.named_parameters() if name != "bias"}

    @property
    def stored_bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(tensor.nbytes for tensor in self.storage.values())

    @property
    def weight_count(self) -> int:
        """Parameters of the model that it holds, the bias not among them."""
        own = (tensor.numel() for name, tensor in dense_parameters(self).items() if name != "bias")
        return sum(own) + sum(layer.weight_count for layer in packed_layers(self).values())

    @property
    def zero_count(self) -> int:
        """Exact zeros among them."""
        own = (_zeros(tensor) for name, tensor in dense_parameters(self).items() if name != "bias")
        return sum(own) + sum(layer.zero_count for layer in packed_layers(self).values())

    @property
    def value_bits(self) -> int | float:
        """Bits of one of them, without scales and tables."""
        return self.bits_per_weight

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of all tensors for each of them."""
        return 8 * self.stored_bytes / self.weight_count

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of one forward over so many tokens, each parameter used once for a token."""
        return tokens * self.weight_count

    def compressed_tensors_scheme(self) -> dict[str, Any] | None:
        """The scheme, with its `format`, by which compressed-tensors reads these tensors; None where it has none."""
        return None

    def take_over(self, layer: nn.Module, module: nn.Module) -> None:
        """Take what the form needs beside bias, dtype and mask, from the layer it replaces or from all of `module`."""

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return functional.linear(inputs, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.kind}, in={self.in_features}, out={self.out_features}, {self.settings}"


class PackedLinear(LinearForm):
    """A linear layer that holds its weight as packed tensors and computes with what they stand for.

    The tensors are codes, scales and tables, no parameters of the model: it counts as the dense weight it stands for,
    and they keep their dtypes. A forward equals that of a dense layer with the weight `dequantized`, unless the kind
    rounds its inputs too.
    """

    has_single_weights = True

    @property
    @abstractmethod
    def code_bits(self) -> int | float:
        """Bits of one weight's code, without scales and tables."""

    @abstractmethod
    def dequantized(self) -> Float[Tensor, "out in"]:
        """The weights that the tensors stand for, in `dtype`."""

    @abstractmethod
    def requantize(self, weight: Float[Tensor, "out in"]) -> "PackedLinear":
        """A layer of the same kind and levels that holds what is nearest to a changed weight.

        Zeros stay exact zeros; a weight that is one of the levels already stays what it is.
        """

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        return self.dequantized()

    @property
    def weight_count(self) -> int:
        return self.out_features * self.in_features

    @property
    def zero_count(self) -> int:
        return _zeros(self.dequantized())

    @property
    def value_bits(self) -> int | float:
        return self.code_bits


def _zeros(tensor: Tensor) -> int:
    return tensor.numel() - int(tensor.count_nonzero())


def kinds() -> dict[str, type[LinearForm]]:
    """Every form by its `kind`: those of this package, and those of others that were imported."""
    _import_own_forms()
    return dict(_kinds)


@functools.cache
def _import_own_forms() -> None:
    for info in pkgutil.iter_modules(importlib.import_module(__package__).__path__):
        importlib.import_module(f"{__package__}.{info.name}")


def form_of_entry(name: str, entry: dict[str, Any]) -> type[LinearForm]:
    """The form of a layer by its entry in a manifest; code that a file names is never imported.

    Raises:
        ModelError: a kind that is not known here.
    """
    kind, package, known = entry["kind"], entry.get("package"), kinds()
    if kind in known:
        return known[kind]
    if package:
        raise ModelError(
            f"{name} is stored as {kind}, a form of the package {package}, which was not imported: import the module "
            f"of {package} that defines it before the model is loaded"
        )
    raise ModelError(
        f"{name} is stored as {kind}, which this version of {PACKAGE} does not have (it has {', '.join(sorted(known))})"
        f": load the model with the version that saved it"
    )


def entry_of(form: LinearForm) -> dict[str, Any]:
    """Entry of a layer in a manifest; a form of another package says which."""
    package = type(form).__module__.partition(".")[0]
    return {"kind": form.kind, "settings": form.settings} | ({} if package == PACKAGE else {"package": package})


def linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Linear layers by full name, in order of definition; those that a form is made of are parts of it."""
    layers: dict[str, nn.Module] = {}
    inside = None
    for name, layer in module.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        if is_linear(layer):
            layers[name] = layer
            inside = None if is_plain(layer) else f"{name}." if name else ""
    return layers


def linear_forms(module: nn.Module) -> dict[str, LinearForm]:
    """The linear layers that are not plain, by full name."""
    return {name: layer for name, layer in linear_layers(module).items() if isinstance(layer, LinearForm)}


def packed_layers(module: nn.Module) -> dict[str, PackedLinear]:
    """Everything that holds codes, by full name: packed layers, and packed parts of other forms."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, PackedLinear)}


def codes(module: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that packed layers store, by full name: no parameters of the model."""
    return {
        f"{name}.{stored}" if name else stored: tensor
        for name, layer in packed_layers(module).items()
        for stored, tensor in layer.storage.items()
    }


def dense_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by name, tied ones once, but for the tensors that packed layers store."""
    storage = {id(tensor) for tensor in codes(module).values()}
    return {name: parameter for name, parameter in module.named_parameters() if id(parameter) not in storage}


def install(module: nn.Module, name: str, form: LinearForm) -> None:
    """Put a form in the place of the linear layer or embedding of that name, whose bias and dtype it takes over.

    It takes over the mask too, where it has single weights.
    """
    layer = module.get_submodule(name)
    dtype = compute_dtype(layer)
    for tensor in dense_parameters(form).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    set_dtype(form, dtype)
    form.bias = getattr(layer, "bias", None)  # an embedding has none
    form.take_over(layer, module)
    if form.has_single_weights:
        hand_over(layer, form)
    set_layer(module, name, form)


def set_layer(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer as it is in the place of that name."""
    holder, _, last = name.rpartition(".")
    setattr(module.get_submodule(holder), last, layer)


def set_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Let every form of a module compute in a dtype; its tensors stay as they are."""
    for part in module.modules():
        if isinstance(part, LinearForm):
            part.dtype = dtype


def relative_error(stored: Float[Tensor, "out in"], wanted: Float[Tensor, "out in"]) -> float:
    """Frobenius norm of the difference over that of what was wanted; 0 where both are zero, NaN where either is."""
    difference, norm = (stored.float() - wanted).norm(), wanted.norm()
    return 0.0 if norm == 0 and difference == 0 else float(difference / norm)


def is_linear(layer: nn.Module) -> bool:
    """True for every linear layer: plain ones and all forms."""
    return is_plain(layer) or isinstance(layer, LinearForm)


def is_plain(layer: nn.Module) -> bool:
    """True for a linear layer that holds one dense weight: nn.Linear, and GPT-2's Conv1D."""
    return not isinstance(layer, LinearForm) and (isinstance(layer, nn.Linear) or is_transposed(layer))


def has_single_weights(layer: nn.Module) -> bool:
    """Whether single weights of a linear layer can be removed or rounded."""
    return layer.has_single_weights if isinstance(layer, LinearForm) else True


def compute_dtype(layer: nn.Module) -> torch.dtype:
    """Dtype of the dense weight of a linear layer."""
    return layer.dtype if isinstance(layer, LinearForm) else layer.weight.dtype


def weight_count(layer: nn.Module) -> int:
    """Parameters of the model that a linear layer holds, the bias not among them."""
    return layer.weight_count if isinstance(layer, LinearForm) else math.prod(layer_shape(layer))


def zero_count(layer: nn.Module) -> int:
    """Exact zeros among the parameters that `weight_count` counts."""
    return layer.zero_count if isinstance(layer, LinearForm) else _zeros(weight_2d(layer))


def stored_bytes(layer: nn.Module) -> int:
    """Bytes that hold the weight of a linear layer, with scales and tables."""
    return layer.stored_bytes if isinstance(layer, LinearForm) else layer.weight.nbytes


def value_bits(layer: nn.Module) -> int | float:
    """Bits of one of the parameters of a linear layer, without scales and tables."""
    return layer.value_bits if isinstance(layer, LinearForm) else 8 * layer.weight.element_size()


def bits_per_weight(layer: nn.Module) -> int | float:
    """Stored bits of a linear layer for each of its parameters, scales and tables included."""
    return layer.bits_per_weight if isinstance(layer, LinearForm) else 8 * layer.weight.element_size()


def macs(layer: nn.Module, tokens: int) -> int:
    """Multiply-accumulates of one forward of a linear layer over so many tokens."""
    return layer.macs(tokens) if isinstance(layer, LinearForm) else tokens * weight_count(layer)


def kinds_of(layers: dict[str, nn.Module]) -> str:
    """Kinds of the forms among some layers, by their words: `integer, nf4`."""
    return ", ".join(sorted({layer.kind for layer in layers.values() if isinstance(layer, LinearForm)}))
