"""Heads, neurons and residual channels of a model: the slices of its modules that belong to each."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from slimsweep.linear.base import is_linear, layer_shape, linear_forms
from slimsweep.linear.orientation import is_transposed
from slimsweep.models.language_model import LanguageModel

OUT, IN = "out", "in"
HEADS, NEURONS, CHANNELS = "heads", "neurons", "channels"


@dataclass(frozen=True)
class Slot:
    """Part of one module that units own: outputs (matrix rows, embedding columns, entries of a norm) or inputs."""

    name: str
    """Full name of the module."""
    module: nn.Module
    side: str
    """`out` or `in`."""
    index: Int[Tensor, "unit width"]
    """Indices of the outputs or inputs that each unit owns."""


@dataclass(frozen=True)
class Units:
    """Parts of a model that can be removed one by one, because everything that belongs together goes together."""

    kind: str
    """`heads` (key/value heads with all their query heads), `neurons` of an MLP, or residual `channels`."""
    slots: tuple[Slot, ...]
    """All they own. Of heads and neurons the last is what reads them: the inputs of o_proj or down_proj."""
    members: int = 1
    """Query heads of one unit of kind `heads`."""
    norms: tuple[Slot, ...] = ()
    """Norms of queries and keys that shrink with `heads`: entries of their weights, or places in a list of norms."""

    def __len__(self) -> int:
        return len(self.slots[0].index)

    @property
    def reader(self) -> Slot:
        """The inputs of the layer through which heads or neurons reach the residual."""
        return self.slots[-1]


@dataclass(frozen=True)
class BlockShape:
    """Widths of one block."""

    heads: int
    key_value_heads: int
    neurons: int


@dataclass(frozen=True)
class Shape:
    """The residual width of a model, and the widths of its blocks in order."""

    channels: int
    blocks: tuple[BlockShape, ...]


def shapes_digest(model: LanguageModel) -> str:
    """SHA-256 of what decides the work of a forward: kinds of linear forms, shapes and dtypes of all tensors, heads.

    Values are not in it: two models that differ in these alone run equally fast in dense kernels.
    """
    tensors = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in model.module.state_dict().items()]
    forms = [[name, layer.kind, layer.settings] for name, layer in linear_forms(model.module).items()]
    content = [model.config.model_type, str(model.dtype), asdict(shape_of(model)), sorted(tensors), forms]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def shape_of(model: LanguageModel) -> Shape:
    """The widths a model has now, read off its layers."""
    blocks = []
    for index in range(len(model.blocks)):
        groups = heads(model, index)
        blocks.append(BlockShape(len(groups) * groups.members, len(groups), len(neurons(model, index))))
    return Shape(channel_count(model), tuple(blocks))


def channel_count(model: LanguageModel) -> int:
    """Residual width."""
    return layer_shape(model.blocks[0].get_submodule(model.family.attention_output))[0]


def heads(model: LanguageModel, index: int) -> Units:
    """Attention heads of block `index`: a key/value head with all query heads that read it is one unit."""
    family, block, prefix = model.family, model.blocks[index], model.block_names[index]
    width = head_width(model, index)
    reader = block.get_submodule(family.attention_output)
    inner = layer_shape(reader)[1]
    layers = [block.get_submodule(name) for name in family.attention_inputs]
    if len(layers) == 3:
        groups = layer_shape(layers[1])[0] // width
        tables = [(0, 0, inner), (1, 0, groups * width), (2, 0, groups * width)]
    elif family.heads_interleaved:
        rows = layer_shape(layers[0])[0]
        groups = (rows - inner) // 2 // width
        tables = [(0, 0, rows)]
    else:
        shared = (layer_shape(layers[0])[0] - inner) // 2
        groups = shared // width
        tables = [(0, 0, inner), (0, inner, shared), (0, inner + shared, shared)]
    slots = [
        Slot(f"{prefix}.{family.attention_inputs[layer]}", layers[layer], OUT, _table(start, size, groups))
        for layer, start, size in tables
    ]
    slots.append(Slot(f"{prefix}.{family.attention_output}", reader, IN, _table(0, inner, groups)))
    norms = [(f"{prefix}.{name}", find(block, name)) for name in family.head_norms]
    norm_slots = tuple(
        Slot(name, norm, OUT, _table(0, len(norm) if isinstance(norm, nn.ModuleList) else size(norm, OUT), groups))
        for name, norm in norms
        if norm is not None
    )
    return Units(HEADS, tuple(slots), members=inner // width // groups, norms=norm_slots)


def neurons(model: LanguageModel, index: int) -> Units:
    """Neurons of the MLP of block `index`; where it is gated, the gate's slot is before that of the other input."""
    family, block, prefix = model.family, model.blocks[index], model.block_names[index]
    reader = block.get_submodule(family.mlp_output)
    count = layer_shape(reader)[1]
    slots = []
    for name in family.mlp_inputs:
        layer = block.get_submodule(name)
        for start in range(0, layer_shape(layer)[0], count):  # twice where gate and up are one layer
            slots.append(Slot(f"{prefix}.{name}", layer, OUT, _table(start, count, count)))
    slots.append(Slot(f"{prefix}.{family.mlp_output}", reader, IN, _table(0, count, count)))
    return Units(NEURONS, tuple(slots))


def head_width(model: LanguageModel, index: int = 0) -> int:
    """Width of one attention head of a block."""
    holder, _, name = model.family.head_width.rpartition(".")
    return getattr(find(model.blocks[index], holder), name)


def is_gated(model: LanguageModel) -> bool:
    """Whether a neuron's value is the product of a gate and another input."""
    return len(neurons(model, 0).slots) == 3


def channels(model: LanguageModel) -> Units:
    """The residual width everywhere: embeddings, norms, and every matrix that reads or writes it."""
    family, count = model.family, channel_count(model)
    table = _table(0, count, count)
    writers = [name for name in (*family.residual_writers, family.final_norm) if name]
    readers = list(family.residual_readers)
    if any(find(model.module, name) is not None for name in family.projections):
        readers = [name for name in readers if name != family.head]  # embeddings and head have a width of their own
    else:
        writers.insert(0, family.embeddings)
    outside = [(name, OUT) for name in writers] + [(name, IN) for name in readers]
    inside = [(name, IN) for name in (*family.attention_inputs, *family.mlp_inputs)]
    inside += [(name, OUT) for name in (family.attention_output, family.mlp_output, *family.norms)]
    places = outside + [(f"{prefix}.{name}", side) for prefix in model.block_names for name, side in inside]
    modules = [(name, find(model.module, name), side) for name, side in places]
    return Units(
        CHANNELS,
        tuple(Slot(name, module, side, table) for name, module, side in modules if size(module, side)),
    )


def find(module: nn.Module, name: str) -> Any:
    """A submodule, or its config, by its full name; None where this model of the family has none there."""
    for part in name.split("."):
        module = getattr(module, part, None)
        if module is None:
            return None
    return module


def size(module: nn.Module | None, side: str) -> int:
    """Count the outputs or inputs of a module; 0 where it has no weights."""
    if module is not None and is_linear(module):
        return layer_shape(module)[0 if side == OUT else 1]
    axes = axes_of(module, side)
    return getattr(module, axes[0][0]).shape[axes[0][1]] if axes else 0


def _table(start: int, size: int, units: int) -> Int[Tensor, "unit width"]:
    return torch.arange(start, start + size).view(units, -1)


def axes_of(module: nn.Module | None, side: str) -> list[tuple[str, int]]:
    """Parameters of a module that have an axis of its outputs or inputs, and which axis that is."""
    if module is None or getattr(module, "weight", None) is None:
        return []
    if isinstance(module, nn.Embedding):
        axes = [("weight", 1)] if side == OUT else []
    elif is_linear(module):
        axes = [("weight", 1 if is_transposed(module) == (side == OUT) else 0)]
        axes += [("bias", 0)] if side == OUT else []
    else:  # a norm
        axes = [("weight", 0), ("bias", 0)]
    return [(name, axis) for name, axis in axes if getattr(module, name, None) is not None]
