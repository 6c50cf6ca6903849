"""The mask of a linear layer: which of its weights a pruning stage removed, one bit a weight.

A removed weight is an exact zero that later stages keep. A zero by value alone is an ordinary weight: it has no bit
here. The mask is a plain attribute of the layer, so that copies of a model carry it and its state dict does not.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor, nn

from slimsweep.errors import ModelError
from slimsweep.linear.orientation import layer_shape, weight_2d

MASKS_FILE = "masks.safetensors"
"""Beside saved weights: for each masked layer its bits [out, ceil(in / 8)], the first input in the lowest bit."""
BITS = "removed_bits"
STORAGE = "mask_storage"


def removed(layer: nn.Module) -> Bool[Tensor, "out in"] | None:
    """True where a pruning stage removed the weight, on the device of the weight; None where the layer has no mask."""
    bits = getattr(layer, BITS, None)
    if bits is None:
        return None
    width = layer_shape(layer)[1]
    unpacked = np.unpackbits(bits.numpy(), axis=1, count=width, bitorder="little").view(np.bool_)
    return torch.from_numpy(unpacked).to(next(layer.parameters()).device)


def set_removed(layer: nn.Module, mask: Bool[Tensor, "out in"] | None) -> None:
    """Give a layer a mask, in place of the one it had; None or a mask that is nowhere True takes it away."""
    bits = None if mask is None else np.packbits(mask.cpu().numpy(), axis=1, bitorder="little")
    if bits is None or not bits.any():
        vars(layer).pop(BITS, None)
    else:
        _set_bits(layer, torch.from_numpy(bits))


def reserve(layer: nn.Module, storage: UInt8[Tensor, "out byte"]) -> None:
    """Keep later masks of a layer in memory that the caller owns, such as a mapped file."""
    vars(layer)[STORAGE] = storage


def hand_over(before: nn.Module, after: nn.Module) -> None:
    """Give the layer that takes the place of another its mask."""
    for name in (BITS, STORAGE):
        if name in vars(before):
            vars(after)[name] = vars(before)[name]


def select(layer: nn.Module, dim: int, kept: Int[Tensor, " kept"]) -> None:
    """Keep only some outputs (dim 0) or inputs (dim 1); to be called before the layer's own size changes."""
    mask = removed(layer)
    if mask is not None:
        vars(layer).pop(STORAGE, None)
        set_removed(layer, mask.index_select(dim, kept.to(mask.device)))


def mark_zeros(layer: nn.Module, weight: Tensor) -> None:
    """Take every exact zero of a layer's weight [out in] for removed."""
    set_removed(layer, weight == 0)


def masked_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that have a mask, by full name."""
    return {name: layer for name, layer in module.named_modules() if BITS in vars(layer)}


def write_masks(module: nn.Module, folder: Path) -> None:
    """Write the masks of a model beside its weights; no file where it has none."""
    from safetensors.torch import save_file

    masks = {name: getattr(layer, BITS).contiguous() for name, layer in masked_layers(module).items()}
    if masks:
        save_file(masks, folder / MASKS_FILE, {"format": "bits"})


def read_masks(module: nn.Module, folder: Path, release: Callable[[], None] | None = None) -> None:
    """Give the layers of a model the masks that lie beside its weights, if there are any.

    `release` is called after each layer, where weights rest in a file.

    Raises:
        ModelError: a mask that fits no layer, or says of a weight that is not zero that it was removed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / MASKS_FILE
    if not file.is_file():
        return
    try:
        masks = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}): copy it again, or {WITHOUT}.") from error
    modules, bad = dict(module.named_modules()), []
    for name, bits in masks.items():
        layer = modules.get(name)
        if layer is None or not hasattr(layer, "weight") or bits.shape != bits_shape(layer):
            bad.append(name)
            continue
        _set_bits(layer, bits)
        if bool((weight_2d(layer)[removed(layer)] != 0).any()):
            bad.append(name)
        if release:
            release()
    if bad:
        raise ModelError(
            f"{file} does not fit the weights beside it: {len(bad)} of its {len(masks)} layers, such as {bad[0]}, are "
            f"not there, have another shape or are not zero where it says so. Save the model again, or {WITHOUT}."
        )


WITHOUT = "delete it where later stages need not keep the zeros of this model"


def _set_bits(layer: nn.Module, bits: UInt8[Tensor, "out byte"]) -> None:
    storage = vars(layer).get(STORAGE)
    vars(layer)[BITS] = bits if storage is None else storage.copy_(bits)


def bits_shape(layer: nn.Module) -> tuple[int, int]:
    """Shape of the bits that a layer's mask takes."""
    rows, columns = layer_shape(layer)
    return rows, -(-columns // 8)
