"""From a config or a folder to a transformers module: built, drawn or read, and checked."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimsweep.container_memory import tightest_limit
from slimsweep.errors import ModelError

AUTO_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
}
GENERATION = "generation_config.json"
ROOM_FRACTION = 0.8  # of free memory: what a second model may take
SHARED_FRACTION = 0.25  # of free memory: a smaller model may be kept once more, to be copied for each job


def build(
    config: Any, auto_class: str, dtype: torch.dtype, device: torch.device | None, remote_code: bool
) -> nn.Module:
    """The module of a config; without weights on the meta device, else with its family's initial ones."""
    with device or contextlib.nullcontext():
        return _auto(auto_class).from_config(config, dtype=dtype, trust_remote_code=remote_code)


def build_empty(config: Any, auto_class: str, dtype: torch.dtype, remote_code: bool) -> nn.Module:
    """The module of a config without weights; its buffers, which no file may hold, are there."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return build(config, auto_class, dtype, None, remote_code)


def draw(config: Any, auto_class: str, dtype: torch.dtype, seed: int, remote_code: bool) -> nn.Module:
    """A module in host memory with random weights of a seed, the same in every dtype up to rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(config, auto_class, torch.float32, torch.device("cpu"), remote_code)
    for parameter in module.parameters():  # not module.to(dtype): rotary frequencies are buffers and stay fp32
        parameter.data = parameter.data.to(dtype)
    module.config.dtype = dtype
    return module


def read(folder: Path, auto_class: str, dtype: torch.dtype, device: torch.device, remote_code: bool) -> nn.Module:
    """A module with the weights of a folder, on `device`.

    Raises:
        ModelError: a damaged file, or tensors that are absent or of another shape than the config says.
    """
    from safetensors import SafetensorError

    try:
        module, info = _auto(auto_class).from_pretrained(
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
    absent = [*sorted(info["missing_keys"]), *sorted(str(key[0]) for key in info["mismatched_keys"])]
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
    return module


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
    bad = [path for path, parameter in parameters.items() if not _is_finite(parameter)]
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


def _auto(auto_class: str) -> Any:
    import transformers

    return getattr(transformers, AUTO_CLASSES[auto_class])


def _is_finite(parameter: torch.Tensor) -> bool:
    if not parameter.is_floating_point() or parameter.numel() == 0:
        return True
    lowest, highest = parameter.detach().aminmax()  # NaN wins in both
    return bool(lowest.isfinite() and highest.isfinite())


def some(names: list[str], shown: int = 5) -> str:
    """The first few names and how many more there are."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
