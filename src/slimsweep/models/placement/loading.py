"""From a config or a folder to a transformers module: built, drawn or read, and checked."""

import contextlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from slimsweep.errors import ModelError
from slimsweep.models.placement.container_memory import tightest_limit
from slimsweep.models.storage import quantized_checkpoint
from slimsweep.models.task import Task
from slimsweep.numerics.finite import all_finite

GENERATION = "generation_config.json"
REFUSALS = (OSError, ImportError, ValueError, LookupError, TypeError, RuntimeError, StrictDataclassError)
"""Errors of transformers and torch about a config or files that they cannot build a model of."""
ROOM_FRACTION = 0.8  # of free memory: what a second model may take
SHARED_FRACTION = 0.25  # of free memory: a smaller model may be kept once more, to be copied for each job


def build(config: Any, task: Task, dtype: torch.dtype, device: torch.device | None, remote_code: bool) -> nn.Module:
    """The module of a config; without weights on the meta device, else with its family's initial ones."""
    with device or contextlib.nullcontext():
        return _auto(task).from_config(config, dtype=dtype, trust_remote_code=remote_code)


def build_empty(config: Any, task: Task, dtype: torch.dtype, remote_code: bool) -> nn.Module:
    """The module of a config without weights; its buffers, which no file may hold, are there, as fp32 makes them."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return _cast(build(config, task, torch.float32, None, remote_code), dtype)


def draw(config: Any, task: Task, dtype: torch.dtype, seed: int, remote_code: bool) -> nn.Module:
    """A module in host memory with random weights of a seed, the same in every dtype up to rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(config, task, torch.float32, torch.device("cpu"), remote_code)
    return _cast(module, dtype)


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with its parameters, and buffers that files hold, in a dtype, as `read` has them.

    Other buffers, such as rotary frequencies, stay fp32.
    """
    saved = module.state_dict(keep_vars=True).values()
    for tensor in [*module.parameters(), *saved]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    module.config.dtype = dtype
    return module


def read(folder: Path, task: Task, dtype: torch.dtype, device: torch.device, remote_code: bool) -> nn.Module:
    """A module with the weights of a folder, on `device`.

    Raises:
        ModelError: a damaged file, or tensors that are absent or of another shape than the config says.
    """
    module, info = _from_pretrained(folder, task, dtype, device, remote_code)
    absent = _absent(info)
    head = [name for name in absent if is_head(name, module)]
    if absent and absent == head and not task.generates:
        raise ModelError(
            f"Weights in {folder} have no head for task={task.name}: {some(absent)} are missing. Set "
            "model.new_head=true to draw them with model.seed, and fine-tune the model; or use weights that were "
            "fine-tuned for the task."
        )
    _refuse_misfits(folder, module, absent, info)
    return module


def read_with_new_head(folder: Path, task: Task, dtype: torch.dtype, seed: int, remote_code: bool) -> nn.Module:
    """A module in host memory with the weights of a folder; a head that the folder lacks is drawn with a seed.

    Raises:
        ModelError: a damaged file, or tensors other than the head's that are absent or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, info = _from_pretrained(folder, task, dtype, torch.device("cpu"), remote_code)
    _refuse_misfits(folder, module, [name for name in _absent(info) if not is_head(name, module)], info)
    return module


def is_head(name: str, module: nn.Module) -> bool:
    """Whether a parameter lies outside the model that all tasks share, as a classifier's do."""
    return not name.startswith(f"{module.base_model_prefix}.")


def _from_pretrained(
    folder: Path, task: Task, dtype: torch.dtype, device: torch.device, remote_code: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """The module that transformers reads, and what it says of missing, unexpected and misshapen tensors."""
    from safetensors import SafetensorError

    if fault := quantized_checkpoint.fault(folder):
        raise ModelError(fault)
    try:
        return _auto(task).from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device} if device.type != "cpu" else None,  # straight there, without a host copy
            use_safetensors=True,
            trust_remote_code=remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # found below, with all names
        )
    except SafetensorError as error:
        raise ModelError(f"Weights in {folder} are damaged ({error}); copy them again.") from error
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        raise ModelError(
            f"Weights in {folder} cannot be read ({reason(error)}). Copy config and weights again from one source, or "
            "save the model with save_pretrained."
        ) from error


def _absent(info: dict[str, Any]) -> list[str]:
    """Names of the tensors that a folder lacks or has in another shape."""
    return [*sorted(info["missing_keys"]), *sorted(str(key[0]) for key in info["mismatched_keys"])]


def _refuse_misfits(folder: Path, module: nn.Module, absent: list[str], info: dict[str, Any]) -> None:
    if absent:
        raise ModelError(
            f"Weights in {folder} do not fit their config.json: missing or of another shape are "
            f"{some(absent)}. Copy config and weights again from one source."
        )
    if extra := [name for name in info["unexpected_keys"] if is_another_block(name, module)]:
        raise ModelError(
            f"Weights in {folder} have more blocks than their config.json says, such as {some(sorted(extra), 1)}. "
            "Copy config and weights again from one source."
        )


def untie(module: nn.Module, filed: Collection[str]) -> None:
    """Give an empty module's tied weights a tensor of their own where a file has one for them (an own head, say)."""
    for name in tied_names(module) & set(filed):
        owner, _, own = name.rpartition(".")
        weight = module.get_parameter(name)
        setattr(module.get_submodule(owner), own, nn.Parameter(torch.empty_like(weight), requires_grad=False))


def tie_absent(module: nn.Module, filed: Collection[str]) -> None:
    """Tie weights that no file had to those they are tied with, as from_pretrained does.

    Tied weights that a file has twice stay apart where they differ, and are tied where they are equal. Forms in the
    place of tied layers share their tensors already, and have no weight that could be tied.
    """
    absent = set(module.state_dict()) - set(filed)
    pairs = module.get_expanded_tied_weights_keys(all_submodels=True)
    plain = {tied: source for tied, source in pairs.items() if {tied, source} <= module.state_dict().keys()}
    if plain == pairs:
        module.tie_weights(missing_keys=absent)
    else:
        module.all_tied_weights_keys = plain
        module.tie_weights(missing_keys=absent, recompute_mapping=False)


def tied_names(module: nn.Module) -> set[str]:
    """Names of parameters that another one is tied to, under which a file need not have them."""
    return dict(module.named_parameters(remove_duplicate=False)).keys() - dict(module.named_parameters()).keys()


def read_generation_settings(module: nn.Module, folder: Path) -> None:
    """Take over a folder's generation_config.json, where there is one and the module generates."""
    if (folder / GENERATION).is_file() and getattr(module, "generation_config", None) is not None:
        module.generation_config = type(module.generation_config).from_pretrained(folder)


def is_another_block(name: str, module: nn.Module) -> bool:
    """Whether a tensor that found no place has one in the first block: it belongs to a block beyond the last."""
    first, found = re.subn(r"\.\d+\.", ".0.", name, count=1)
    return bool(found) and first in module.state_dict()


def refuse_non_finite(parameters: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> None:
    """Raise ModelError naming the parameters that hold NaN or inf."""
    bad = [path for path, parameter in parameters.items() if not all_finite(parameter)]
    if bad:
        raise ModelError(
            f"Weights of {name} hold NaN or inf as {str(dtype).removeprefix('torch.')}, in {some(bad)}. "
            "Copy them again, or choose a dtype with more range (dtype=bfloat16 or dtype=float32)."
        )


def is_shareable(module: nn.Module, device: torch.device) -> bool:
    """Whether memory has room for copies of a module beside the original."""
    return sum(parameter.nbytes for parameter in module.parameters()) < SHARED_FRACTION * free_bytes(device)


def has_room(parameters: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether memory takes one more model of so many parameters."""
    return parameters * dtype.itemsize < ROOM_FRACTION * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; of host memory, what the limits of a container leave."""
    if device.type == "cuda":
        # What torch keeps for its next tensors is free too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    available, limit = psutil.virtual_memory().available, tightest_limit()
    return min(available, limit.free_bytes) if limit else available


def _auto(task: Task) -> Any:
    import transformers

    return getattr(transformers, task.auto_class)


def reason(error: Exception) -> str:
    """Message of a library as one line: that of its cause where it only names the check that failed."""
    cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
    return " ".join(str(cause).split())[:500].rstrip(".") or type(cause).__name__


def some(names: list[str], shown: int = 5) -> str:
    """The first few names and how many more there are."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
