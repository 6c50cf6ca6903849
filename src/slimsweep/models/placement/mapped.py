"""Read a model whose blocks are stored in a memory-mapped scratch file instead of memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from slimsweep.errors import ModelError
from slimsweep.models.placement import loading
from slimsweep.models.placement.scratch import Scratch, padded_bytes
from slimsweep.models.storage import checkpoint, quantized_checkpoint
from slimsweep.models.storage.saved_model import saved_tensors


def scratch_bytes(tensors: Iterable[Tensor], dtype: torch.dtype) -> int:
    """Bytes that a scratch file needs for tensors of these shapes."""
    return sum(padded_bytes(tuple(tensor.shape), dtype) for tensor in tensors)


def read_mapped(module: nn.Module, in_blocks: set[str], folder: Path, dtype: torch.dtype, scratch: Scratch) -> None:
    """Load safetensors into an empty module. Weights of blocks go to the scratch file, all others to memory.

    Reads one tensor at a time. Peak memory: the weights outside the blocks, and the largest tensor.

    Raises:
        ModelError: weights are missing, have another shape or an unknown name (all are named), or are not finite.
    """
    if fault := quantized_checkpoint.fault(folder):
        raise ModelError(fault)
    filed, prefix = _filed(folder), f"{module.base_model_prefix}."
    loading.untie(module, filed.keys())
    wanted = saved_tensors(module)
    partners = {source: tied for tied, source in module.get_expanded_tied_weights_keys(all_submodels=True).items()}
    names = {own: own if own in filed else own.removeprefix(prefix) for own in wanted}  # older files have no prefix
    names = {own: name for own, name in names.items() if name in filed or partners.get(own) not in filed}
    odd = [own for own, name in names.items() if name not in filed or filed[name].shape != tuple(wanted[own].shape)]
    odd += [name for name in filed.keys() - set(names.values()) if loading.is_another_block(name, module)]
    if odd:
        raise ModelError(
            f"memory_budget reads weights under the names they have in {folder}, and {loading.some(sorted(odd))} are "
            "missing there, have another shape or belong to no block of the model: run it without memory_budget."
        )
    read = {}
    for own, name in names.items():
        tensor = _tensor(filed[name].file, name)
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        shape = tuple(tensor.shape)
        read[own] = scratch.tensor(shape, kind) if own in in_blocks else torch.empty(shape, dtype=kind)
        read[own].copy_(tensor)
        loading.refuse_non_finite({own: read[own]}, str(folder), dtype)
        scratch.release()
    module.load_state_dict(read, strict=False, assign=True)
    loading.tie_absent(module, read.keys())
    loading.read_generation_settings(module, folder)


@dataclass(frozen=True)
class _Filed:
    """Place of a tensor in a file, and its shape."""

    file: Path
    shape: tuple[int, ...]


def _filed(folder: Path) -> dict[str, _Filed]:
    """Every tensor of a folder's files, from their headers."""
    found = {}
    for file in checkpoint.weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            found |= {name: _Filed(file, tuple(opened.get_slice(name).get_shape())) for name in list(opened.keys())}
    return found


def _tensor(file: Path, name: str) -> Tensor:
    """Read one tensor. Opening the file for each tensor gives its pages back to the system."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)
