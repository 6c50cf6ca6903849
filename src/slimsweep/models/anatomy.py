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
from slimsweep.models.families import Attention
from slimsweep.models.language_model import LanguageModel

OUT, IN = "out", "in"
HEADS, CROSS_HEADS, NEURONS, CHANNELS = "heads", "cross_heads", "neurons", "channels"


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
    """`heads` of self-attention (key/value heads with all their query heads), `cross_heads` of attention to an encoder,
    `neurons` of an MLP, or residual `channels`."""
    slots: tuple[Slot, ...]
    """All they own. Of heads and neurons the last is what reads them: the inputs of o_proj or down_proj."""
    members: int = 1
    """Query heads of one unit of heads."""
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
    cross_heads: int | None = None
    """Heads of attention to an encoder; None where the block has none."""
    cross_key_value_heads: int | None = None

    def as_plain(self) -> dict[str, int]:
        """Widths by name; a block without cross-attention has none of its heads."""
        return {name: width for name, width in asdict(self).items() if width is not None}


@dataclass(frozen=True)
class Shape:
    """The residual width of a model, and the widths of its blocks in order."""

    channels: int
    blocks: tuple[BlockShape, ...]

    def as_plain(self) -> dict[str, Any]:
        """Widths as plain values."""
        return {"channels": self.channels, "blocks": [block.as_plain() for block in self.blocks]}


def shapes_digest(model: LanguageModel) -> str:
    """SHA-256 of what decides the work of a forward: kinds of linear forms, shapes and dtypes of all tensors, heads.

    Values are not in it: two models that differ in these alone run equally fast in dense kernels.
    """
    tensors = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in model.module.state_dict().items()]
    forms = [[name, layer.kind, layer.settings] for name, layer in linear_forms(model.module).items()]
    content = [model.config.model_type, str(model.dtype), shape_of(model).as_plain(), sorted(tensors), forms]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def shape_of(model: LanguageModel) -> Shape:
    """The widths a model has now, read off its layers."""
    blocks = []
    for index in range(len(model.blocks)):
        own, *cross = (units_of(model, kind, index) for kind in head_kinds(model, index))
        crossing = [(len(units) * units.members, len(units)) for units in cross]
        counts = (len(own) * own.members, len(own), len(neurons(model, index)))
        blocks.append(BlockShape(*counts, *(crossing[0] if crossing else ())))
    return Shape(channel_count(model), tuple(blocks))


def units_of(model: LanguageModel, kind: str, index: int) -> Units:
    """The heads, cross_heads or neurons of block `index`."""
    makers = {HEADS: heads, CROSS_HEADS: cross_heads, NEURONS: neurons}
    return makers[kind](model, index)


def head_kinds(model: LanguageModel, index: int) -> tuple[str, ...]:
    """Kinds of heads that block `index` has."""
    return (HEADS,) if model.stack_of(index).cross is None else (HEADS, CROSS_HEADS)


def channel_count(model: LanguageModel) -> int:
    """Residual width."""
    return layer_shape(model.blocks[0].get_submodule(model.stack_of(0).attention_output))[0]


def heads(model: LanguageModel, index: int) -> Units:
    """Heads of self-attention of block `index`: a key/value head with all query heads that read it is one unit."""
    return _heads(model, index, HEADS, model.stack_of(index).attention)


def cross_heads(model: LanguageModel, index: int) -> Units:
    """Heads of block `index` that attend to the output of the encoder."""
    return _heads(model, index, CROSS_HEADS, model.stack_of(index).cross)


def _heads(model: LanguageModel, index: int, kind: str, attention: Attention) -> Units:
    block, prefix = model.blocks[index], model.block_names[index]
    width = head_width(model, index, kind)
    reader = block.get_submodule(attention.output)
    inner = layer_shape(reader)[1]
    layers = [block.get_submodule(name) for name in attention.inputs]
    if len(layers) == 3:
        groups = layer_shape(layers[1])[0] // width
        tables = [(0, 0, inner), (1, 0, groups * width), (2, 0, groups * width)]
    elif attention.heads_interleaved:
        rows = layer_shape(layers[0])[0]
        groups = (rows - inner) // 2 // width
        tables = [(0, 0, rows)]
    else:
        shared = (layer_shape(layers[0])[0] - inner) // 2
        groups = shared // width
        tables = [(0, 0, inner), (0, inner, shared), (0, inner + shared, shared)]
    slots = [
        Slot(f"{prefix}.{attention.inputs[layer]}", layers[layer], OUT, _table(start, size, groups))
        for layer, start, size in tables
    ]
    slots.append(Slot(f"{prefix}.{attention.output}", reader, IN, _table(0, inner, groups)))
    norms = [(f"{prefix}.{name}", find(block, name)) for name in attention.head_norms]
    norm_slots = tuple(
        Slot(name, norm, OUT, _table(0, len(norm) if isinstance(norm, nn.ModuleList) else size(norm, OUT), groups))
        for name, norm in norms
        if norm is not None
    )
    return Units(kind, tuple(slots), members=inner // width // groups, norms=norm_slots)


def neurons(model: LanguageModel, index: int) -> Units:
    """Neurons of the MLP of block `index`; where it is gated, the gate's slot is before that of the other input."""
    stack, block, prefix = model.stack_of(index), model.blocks[index], model.block_names[index]
    reader = block.get_submodule(stack.mlp_output)
    count = layer_shape(reader)[1]
    slots = []
    for name in stack.mlp_inputs:
        if (layer := find(block, name)) is None:  # families with and without a gate share an entry (T5)
            continue
        for start in range(0, layer_shape(layer)[0], count):  # twice where gate and up are one layer
            slots.append(Slot(f"{prefix}.{name}", layer, OUT, _table(start, count, count)))
    slots.append(Slot(f"{prefix}.{stack.mlp_output}", reader, IN, _table(0, count, count)))
    return Units(NEURONS, tuple(slots))


def head_width(model: LanguageModel, index: int = 0, kind: str = HEADS) -> int:
    """Width of one head of a block's self-attention or cross-attention."""
    stack = model.stack_of(index)
    holder, _, name = (stack.head_width if kind == HEADS else stack.cross.head_width).rpartition(".")
    return getattr(find(model.blocks[index], holder), name)


def is_gated(model: LanguageModel) -> bool:
    """Whether a neuron's value is the product of a gate and another input."""
    return len(neurons(model, 0).slots) == 3


def channels(model: LanguageModel) -> Units:
    """The residual width everywhere: embeddings, norms, and every matrix that reads or writes it."""
    family, count = model.family, channel_count(model)
    table = _table(0, count, count)
    final_norms = [stack.final_norm for stack in family.stacks]
    writers = [name for name in (*family.residual_writers, *final_norms) if name]
    readers = list(family.residual_readers)
    if any(find(model.module, name) is not None for name in family.projections):
        readers = [name for name in readers if name != family.head]  # embeddings and head have a width of their own
    else:
        writers.insert(0, family.embeddings)
    places = [(name, OUT) for name in writers] + [(name, IN) for name in readers]
    for index, prefix in enumerate(model.block_names):
        stack = model.stack_of(index)
        inputs = [name for attention in stack.attentions for name in attention.inputs] + list(stack.mlp_inputs)
        outputs = [*(attention.output for attention in stack.attentions), stack.mlp_output, *stack.norms]
        places += [(f"{prefix}.{name}", IN) for name in inputs] + [(f"{prefix}.{name}", OUT) for name in outputs]
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
