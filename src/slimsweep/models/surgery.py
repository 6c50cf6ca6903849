"""Removing heads, neurons, residual channels and blocks from a model for good."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from slimsweep.linear.base import is_linear, layer_shape
from slimsweep.linear.mask import select
from slimsweep.linear.orientation import set_size
from slimsweep.models.anatomy import (
    CHANNELS,
    HEADS,
    OUT,
    Shape,
    Units,
    axes_of,
    channel_count,
    channels,
    find,
    heads,
    neurons,
    shape_of,
    size,
)
from slimsweep.models.language_model import LanguageModel
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
    if units.kind == HEADS:
        _set_head_counts(model, units)
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
        _resize_units(model, heads(model, index), block.key_value_heads, f"key/value heads of block {index}")
        _resize_units(model, neurons(model, index), block.neurons, f"neurons of block {index}")
    if shape_of(model) != shape:
        raise ValueError("the query heads of each key/value head do not agree with the model's")


def _resize_units(model: LanguageModel, units: Units, count: int, what: str) -> None:
    if not 0 < count <= len(units):
        raise ValueError(f"{what}: {count} asked for, the model has {len(units)}")
    remove(model, units, range(count, len(units)))


def remove_blocks(model: LanguageModel, gone: Iterable[int]) -> None:
    """Take whole blocks out; the others are numbered anew, in the config too."""
    gone = set(gone)
    parent, _, name = model.family.blocks.rpartition(".")
    kept = [index for index in range(len(model.blocks)) if index not in gone]
    if isinstance(model, Skeleton):
        model.move_zeros(dict(zip([model.block_names[index] for index in kept], model.block_names, strict=False)))
    blocks = model.blocks
    setattr(model.module.get_submodule(parent), name, nn.ModuleList(blocks[index] for index in kept))
    for position, index in enumerate(kept):
        for part in blocks[index].modules():
            if getattr(part, "layer_idx", None) is not None:
                part.layer_idx = position
    config = model.config
    config.num_hidden_layers = len(kept)
    for name in PER_BLOCK_LISTS:
        if isinstance(values := getattr(config, name, None), list):
            setattr(config, name, [values[index] for index in kept])


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
    names = [name for name in (*family.residual_writers, family.final_norm) if name]
    names += [f"{prefix}.{name}" for prefix in model.block_names for name in family.norms]
    for norm in (find(model.module, name) for name in names):
        if hasattr(norm, "normalized_shape") and not axes_of(norm, OUT):
            norm.normalized_shape = (channel_count(model),)


def _set_head_counts(model: LanguageModel, units: Units) -> None:
    """Set the head counts that a block's forward reads beside its weights' shapes."""
    index = next(i for i, prefix in enumerate(model.block_names) if units.reader.name.startswith(f"{prefix}."))
    block, now = model.blocks[index], heads(model, index)
    counts = {
        "heads": len(now) * now.members,
        "key_value_heads": len(now),
        "width": layer_shape(now.reader.module)[1],
    }
    for path, quantity in model.family.head_counts.items():
        holder, _, name = path.rpartition(".")
        if holder.endswith(".config"):  # shared by all blocks until now
            owner = find(block, holder.removesuffix(".config"))
            owner.config = copy.copy(owner.config)
        setattr(find(block, holder), name, counts[quantity])
