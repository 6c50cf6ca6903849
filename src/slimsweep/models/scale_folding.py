"""Scaling of an activation's channels that leaves the model's function as it is: places, and the folding itself."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from slimsweep.linear.base import is_linear, layer_shape, weight_2d
from slimsweep.models import anatomy
from slimsweep.models.dependency_trace import Trace, trace
from slimsweep.models.language_model import LanguageModel


@dataclass(frozen=True)
class Place:
    """An activation whose channels can be scaled: what makes it is divided, and all that read it are multiplied."""

    block: int
    smooth_layer: str
    """Full name of the norm or linear layer that makes it."""
    makes: Int[Tensor, " channel"]
    """The maker's output of each channel."""
    balance_layers: tuple[str, ...]
    """Full names of the linear layers that read it; nothing else does."""
    reads: Int[Tensor, " in"]
    """The channel of each input of the readers; several query heads read one channel of a shared value head."""
    is_norm: bool = True
    offset: float = 0.0
    """A norm multiplies by its weight plus this: 1 in Gemma."""


@dataclass(frozen=True)
class Survey:
    """The places of a model in forward order, and why other layers' inputs are none."""

    places: list[Place]
    reasons: dict[str, str]
    """Reason why the inputs of a linear layer cannot be scaled, by the layer's full name."""


def survey(model: LanguageModel) -> Survey:
    """Find what can be scaled: inputs of linear layers made by a norm, by the values, or by the neurons.

    Which layers read a norm, and whether anything else does, is seen in one forward without matrix products, which also
    runs on the meta device. `Family` declares that attention is linear in its values, and a gated neuron in the
    factor that its gate multiplies. An activation without a gate is tested with numbers.
    """
    seen = trace(model)
    places, reasons = [], {}
    for index, prefix in enumerate(model.block_names):
        names = [f"{prefix}.{name}" for name in model.linears(model.blocks[index])]
        found = _of_norms(model, index, names, seen, reasons)
        found += [_of_values(model, index, kind) for kind in anatomy.head_kinds(model, index)]
        if (place := _of_neurons(model, index, seen, reasons)) is not None:
            found.append(place)
        taken = {name for place in found for name in place.balance_layers}
        reasons.update({name: "its inputs are made by no norm" for name in names if name not in {*taken, *reasons}})
        places += sorted(found, key=lambda place: names.index(place.balance_layers[0]))
    return Survey(places, reasons)


@torch.no_grad()
def fold(
    model: LanguageModel,
    place: Place,
    scale: Float[Tensor, " channel"],
    weights: dict[str, Tensor],
) -> Float[Tensor, " in"]:
    """Divide the maker by a scale for each channel and multiply its readers; returns what each input was divided by.

    `weights` holds fp32 weights [out in] that are yet to be rounded; a layer that is not there is changed in the model,
    in its dtype. A norm is divided by what its dtype can hold, and its readers are multiplied by exactly that.
    """
    maker = model.module.get_submodule(place.smooth_layer)
    makes = place.makes.to(scale.device)
    if place.is_norm:
        scale = _divide_norm(maker, scale, place.offset)
    else:
        rows = torch.ones(layer_shape(maker)[0], device=scale.device).index_copy_(0, makes, 1 / scale)
        _multiply(maker, weights.get(place.smooth_layer), rows[:, None])
        if maker.bias is not None:
            maker.bias.copy_(maker.bias.float() * rows)
    columns = scale[place.reads.to(scale.device)]
    for name in place.balance_layers:
        _multiply(model.module.get_submodule(name), weights.get(name), columns)
    return columns


def query_key_rows(model: LanguageModel, index: int) -> dict[str, Bool[Tensor, " out"]]:
    """Masks of the outputs that are queries or keys, by full name of a block's layers that have some."""
    rows = {}
    for kind in anatomy.head_kinds(model, index):
        units, (value, table) = anatomy.units_of(model, kind, index), _values(model, index, kind)
        for slot in units.slots[:-1]:
            mine = torch.ones(layer_shape(slot.module)[0], dtype=torch.bool)
            if slot.name == value:
                mine[table.flatten()] = False
            if bool(mine.any()):
                rows[slot.name] = mine
    return rows


def _of_norms(model: LanguageModel, index: int, names: list[str], seen: Trace, reasons: dict[str, str]) -> list[Place]:
    """Norms of a block whose outputs go to linear layers of this block only; the others are reasons."""
    places = []
    for maker in dict.fromkeys(seen.maker.get(name) for name in names):
        norm = model.module.get_submodule(maker) if maker else None
        weight = getattr(norm, "weight", None)
        if norm is None or is_linear(norm) or weight is None or weight.dim() != 1:
            continue
        readers = [name for name, other in seen.maker.items() if other == maker]
        if maker in seen.shared or not set(readers) <= set(names):
            why = f"more than these layers read the output of {maker}"
            reasons.update(dict.fromkeys((name for name in readers if name in names), why))
            continue
        if (offset := _offset(norm)) is None:
            reasons.update(dict.fromkeys(readers, f"{maker} is not a multiple of its weight"))
            continue
        channels = torch.arange(len(weight))
        places.append(Place(index, maker, channels, tuple(readers), channels, offset=offset))
    return places


def _of_values(model: LanguageModel, index: int, kind: str) -> Place:
    """The values, read by the projection that leaves attention: one channel for all query heads of a value head."""
    units, (maker, makes) = anatomy.units_of(model, kind, index), _values(model, index, kind)
    groups, width = makes.shape
    reads = torch.empty(units.reader.index.numel(), dtype=torch.long)
    own = torch.arange(groups * width).view(groups, 1, width).expand(-1, units.members, -1)
    reads[units.reader.index.flatten()] = own.flatten()
    return Place(index, maker, makes.flatten(), (units.reader.name,), reads, is_norm=False)


def _values(model: LanguageModel, index: int, kind: str) -> tuple[str, Int[Tensor, "group width"]]:
    """The layer that makes the values of an attention, and which of its outputs they are, by key/value head."""
    *inputs, _ = anatomy.units_of(model, kind, index).slots
    return inputs[-1].name, inputs[-1].index[:, -anatomy.head_width(model, index, kind) :]


def _of_neurons(model: LanguageModel, index: int, seen: Trace, reasons: dict[str, str]) -> Place | None:
    """The neurons: through what a gate multiplies, or through an activation that passes scales on."""
    *inputs, reader = anatomy.neurons(model, index).slots
    made = inputs[-1]
    if len(inputs) == 1 and not seen.passes_scale(made.name, reader.name):
        reasons[reader.name] = "the activation before it is no ReLU, so a scale does not pass through it"
        return None
    channels = torch.arange(len(made.index))
    return Place(index, made.name, made.index.flatten(), (reader.name,), channels, is_norm=False)


def _divide_norm(norm: nn.Module, scale: Float[Tensor, " channel"], offset: float) -> Float[Tensor, " channel"]:
    """Divide a norm's outputs; returns by what, after rounding. A channel that rounding would lose stays as it is."""
    factor = norm.weight.float() + offset
    stored = (factor / scale - offset).to(norm.weight.dtype)
    now = stored.float() + offset
    lost = (factor != 0) & ((now == 0) | ~now.isfinite())
    exact = torch.where(factor == 0, scale, torch.where(lost, 1.0, factor / now))
    norm.weight.copy_(torch.where(lost, norm.weight, stored))
    if getattr(norm, "bias", None) is not None:
        norm.bias.copy_(norm.bias.float() / exact)
    return exact


def _multiply(layer: nn.Module, weight: Float[Tensor, "out in"] | None, by: Tensor) -> None:
    if weight is not None:
        weight.mul_(by)
    else:
        own = weight_2d(layer)
        own.copy_(own.float() * by)


@torch.no_grad()
def _offset(norm: nn.Module) -> float | None:
    """Offset that a norm adds to its weight, tried on a copy; None where it does something else."""
    trial = copy.deepcopy(norm).to_empty(device="cpu").float()
    bias = getattr(trial, "bias", None)
    if bias is not None:
        bias.zero_()
    inputs = torch.linspace(-1, 2, trial.weight.numel()).square()[None]

    def outputs(weight: float) -> Float[Tensor, "one channel"]:
        trial.weight.fill_(weight)
        return trial(inputs)

    zero, one, three = outputs(0.0), outputs(1.0), outputs(3.0)
    if not torch.allclose(three - zero, 3 * (one - zero), rtol=1e-4, atol=1e-6):
        return None
    for offset in (0.0, 1.0):
        if torch.allclose(zero, offset * (one - zero), rtol=1e-4, atol=1e-6):
            return offset
    return None
