"""Removing heads, neurons, residual channels and blocks from a model for good."""

import copy
from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from slimsweep.linear.base import is_linear, layer_shape
from slimsweep.linear.mask import select
from slimsweep.linear.orientation import set_size
from slimsweep.models.anatomy import (
    CHANNELS,
    CROSS_HEADS,
    HEADS,
    NEURONS,
    OUT,
    Shape,
    Units,
    axes_of,
    channel_count,
    channels,
    find,
    shape_of,
    size,
    units_of,
)
from slimsweep.models.families import Attention
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.position_bias import give_table, keep_heads
from slimsweep.models.skeleton import Skeleton

PER_BLOCK_LISTS = ("layer_types", "no_rope_layers")
"""Config fields that hold one value for each block."""


@torch.no_grad()
def remove(model: LanguageModel, units: Units, gone: Iterable[int]) -> None:
    """Take units out of all they have parts in. Tied weights stay tied; the rest keeps order and bits."""
    gone = torch.tensor(sorted(set(gone)), dtype=torch.long)
    if not len(gone):
        return
    owned: dict[tuple[nn.Module, str], list[Tensor]] = {}
    names = {slot.module: slot.name for slot in (*units.slots, *units.norms)}
    for slot in (*units.slots, *units.norms):
        if isinstance(slot.module, nn.ModuleList):
            for place in sorted(slot.index[gone].flatten().tolist(), reverse=True):
                del slot.module[place]
        else:
            owned.setdefault((slot.module, slot.side), []).append(slot.index[gone].flatten())
    made: dict[
        int, tuple[nn.Parameter, nn.Parameter]
    ] = {}  # by id of the old one, which is held so that ids stay unique
    for (module, side), parts in owned.items():
        before = size(module, side)
        keep = torch.ones(before, dtype=torch.bool)
        keep[torch.cat(parts)] = False
        kept = keep.nonzero().flatten()
        for attribute, axis in axes_of(module, side):
            old = getattr(module, attribute)
            if id(old) not in made:
                values = old.detach().index_select(axis, kept.to(old.device))
                made[id(old)] = (old, nn.Parameter(values, requires_grad=False))
            setattr(module, attribute, made[id(old)][1])
        select(module, 0 if side == OUT else 1, kept)
        _set_size(module, side, len(kept))
        if isinstance(model, Skeleton):
            model.resize_zeros(names[module], len(kept), before)
    if units.kind in (HEADS, CROSS_HEADS):
        _set_head_counts(model, units, gone)
    if units.kind == CHANNELS:
        _set_norm_widths(model)


@torch.no_grad()
def mask(units: Units, gone: Iterable[int]) -> None:
    """Zero what the units own instead of removing it: the same function of the input, at the old size.

    A norm over all queries or keys takes its mean square over the ones that stay only, once the others are removed;
    over the zeros too here. Its weight makes up for that, so units of one block are masked in one call.
    """
    gone = torch.tensor(sorted(set(gone)), dtype=torch.long)
    for slot in units.slots:
        for attribute, axis in axes_of(slot.module, slot.side):
            parameter = getattr(slot.module, attribute)
            parameter.data.index_fill_(axis, slot.index[gone].flatten().to(parameter.device), 0)
    for slot in units.norms:
        if not isinstance(slot.module, nn.ModuleList):
            slot.module.weight.data *= (1 - len(gone) / len(units)) ** 0.5


def resize(model: LanguageModel, shape: Shape) -> None:
    """Shrink a model to given widths, its last units going; for shapes whose values come from a file.

    Raises:
        ValueError: another number of blocks, or a width above the model's own.
    """
    if len(shape.blocks) != len(model.blocks):
        raise ValueError(f"{len(shape.blocks)} blocks are described, the model has {len(model.blocks)}")
    _resize_units(model, channels(model), shape.channels, "residual width")
    for index, block in enumerate(shape.blocks):
        counts = {
            HEADS: (block.key_value_heads, "key/value heads"),
            CROSS_HEADS: (block.cross_key_value_heads, "key/value heads of cross-attention"),
            NEURONS: (block.neurons, "neurons"),
        }
        for kind, (count, what) in counts.items():
            if count is not None:
                _resize_units(model, units_of(model, kind, index), count, f"{what} of block {index}")
    if shape_of(model) != shape:
        raise ValueError("the query heads of each key/value head do not agree with the model's")


def _resize_units(model: LanguageModel, units: Units, count: int, what: str) -> None:
    if not 0 < count <= len(units):
        raise ValueError(f"{what}: {count} asked for, the model has {len(units)}")
    remove(model, units, range(count, len(units)))


def remove_blocks(model: LanguageModel, gone: Iterable[int]) -> None:
    """Take whole blocks out; the others of their stack are numbered anew, in the config too."""
    gone = set(gone)
    blocks, names = model.blocks, model.block_names
    kept_of_all = [index for index in range(len(blocks)) if index not in gone]
    for stack, of_stack in zip(model.family.stacks, model.stack_ranges, strict=True):
        kept = [index for index in of_stack if index not in gone]
        parent, _, name = stack.blocks.rpartition(".")
        setattr(model.module.get_submodule(parent), name, nn.ModuleList(blocks[index] for index in kept))
        if model.family.position_bias and kept[0] != of_stack[0]:
            give_table(*(_attention_module(blocks[index], stack.attention) for index in (of_stack[0], kept[0])))
        for position, index in enumerate(kept):
            for part in blocks[index].modules():
                if getattr(part, "layer_idx", None) is not None:
                    part.layer_idx = position
        setattr(model.config, stack.blocks_field, len(kept))
    if isinstance(model, Skeleton):
        model.move_zeros(dict(zip([names[index] for index in kept_of_all], model.block_names, strict=True)))
    for name in PER_BLOCK_LISTS:
        if isinstance(values := getattr(model.config, name, None), list):
            setattr(model.config, name, [values[index] for index in kept_of_all])


def _attention_module(block: nn.Module, attention: Attention) -> nn.Module:
    """The module whose forward is the attention."""
    return block.get_submodule(attention.output.rpartition(".")[0])


def _set_size(module: nn.Module, side: str, count: int) -> None:
    """Set the size that a module says it has."""
    if isinstance(module, nn.Embedding):
        module.embedding_dim = count
    elif is_linear(module):
        set_size(module, 0 if side == OUT else 1, count)
    elif hasattr(module, "normalized_shape"):
        module.normalized_shape = (count,)


def _set_norm_widths(model: LanguageModel) -> None:
    """Tell norms without weights the residual width. They own nothing, so they are no slots of the channels."""
    family = model.family
    names = [name for name in (*family.residual_writers, *(stack.final_norm for stack in family.stacks)) if name]
    names += [
        f"{prefix}.{name}" for index, prefix in enumerate(model.block_names) for name in model.stack_of(index).norms
    ]
    for norm in (find(model.module, name) for name in names):
        if hasattr(norm, "normalized_shape") and not axes_of(norm, OUT):
            norm.normalized_shape = (channel_count(model),)


def _set_head_counts(model: LanguageModel, units: Units, gone: Int[Tensor, " unit"]) -> None:
    """Set what a block's forward reads of its heads beside its weights' shapes: counts, and biases by position."""
    index = next(i for i, prefix in enumerate(model.block_names) if units.reader.name.startswith(f"{prefix}."))
    block, stack, now = model.blocks[index], model.stack_of(index), units_of(model, units.kind, index)
    attention = stack.attention if units.kind == HEADS else stack.cross
    counts = {
        "heads": len(now) * now.members,
        "key_value_heads": len(now),
        "width": layer_shape(now.reader.module)[1],
    }
    for path, quantity in attention.head_counts.items():
        holder, _, name = path.rpartition(".")
        if holder.endswith(".config"):  # shared by all blocks until now
            owner = find(block, holder.removesuffix(".config"))
            owner.config = copy.copy(owner.config)
        setattr(find(block, holder), name, counts[quantity])
    if model.family.position_bias:
        lost = set(gone.tolist())
        kept = [unit for unit in range(len(units)) if unit not in lost]
        keep_heads(_attention_module(block, attention), kept, len(units))
