"""A model whose blocks rest in a scratch file, read there from safetensors tensor by tensor."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from slimsweep.errors import ModelError
from slimsweep.models import checkpoint, loading
from slimsweep.models.reduced import saved_tensors
from slimsweep.models.scratch import Scratch, padded_bytes


def scratch_bytes(tensors: Iterable[Tensor], dtype: torch.dtype) -> int:
    """What a scratch file needs for tensors of these shapes."""
    return sum(padded_bytes(tuple(tensor.shape), dtype) for tensor in tensors)


def read_mapped(module: nn.Module, in_blocks: set[str], folder: Path, dtype: torch.dtype, scratch: Scratch) -> None:
    """Give an empty module the weights of a folder of safetensors: those of its blocks in the scratch file.

    Reads one tensor at a time, so that it never holds more than the largest of them beside what is outside the blocks.

    Raises:
        ModelError: weights that are missing, or of other shapes or names than the module's, all by name; or not finite.
    """
    wanted = saved_tensors(module)
    known, read = module.state_dict().keys(), {}
    odd = []
    for name, tensor in _tensors(folder):
        if name not in wanted:
            odd += [] if name in known else [name]  # a tied weight may be in the file twice
            continue
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        shape = tuple(tensor.shape)
        read[name] = scratch.tensor(shape, kind) if name in in_blocks else torch.empty(shape, dtype=kind)
        read[name].copy_(tensor)
        loading.refuse_non_finite({name: read[name]}, str(folder), dtype)
        scratch.release()
    odd += [name for name, tensor in wanted.items() if name not in read or read[name].shape != tensor.shape]
    if odd:
        raise ModelError(
            f"memory_budget reads weights under the names they have in {folder}, and the model has no such tensor, or "
            f"of another shape, as {loading.some(sorted(odd))}: run this model without memory_budget."
        )
    module.load_state_dict(read, strict=False, assign=True)
    module.tie_weights()


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a folder's files; each file is opened anew for each tensor, so that its pages are given back."""
    for file in checkpoint.weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
        for name in names:
            with safe_open(file, framework="pt") as opened:
                yield name, opened.get_tensor(name)
