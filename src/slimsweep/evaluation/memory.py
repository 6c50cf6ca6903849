"""Memory: what loaded weights occupy, and the peak while the model runs."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.heap import return_free_heap
from slimsweep.evaluation.quantity import Quantity
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Value that resets the peak of resident memory when it is written to clear_refs (proc(5))."""

IN_A_FILE = "weights rest in a file (memory_budget), so that the peak is that of the budget and not of the model"


@dataclass(frozen=True, kw_only=True)
class Memory(Metric):
    """Bytes of the weights, and those plus the rise of memory during one forward of one sequence."""

    depends_on_values: ClassVar[bool] = False
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="load_memory_bytes",
            label="memory after loading",
            unit="bytes",
            higher_is_better=False,
            format=".0f",
            divisor=2**20,
            varies=True,
        ),
        Quantity(
            field="peak_memory_bytes",
            kind="memory",
            label="peak memory",
            unit="bytes",
            higher_is_better=False,
            group="cost",
            heading="peak MiB",
            format=".0f",
            divisor=2**20,
            place=30,
            varies=True,
        ),
    )

    tokens: int = 512
    """Tokens of that forward; an encoder-decoder reads as many and writes as many."""

    def __post_init__(self) -> None:
        refuse(whole_number_faults("evaluation.memory_tokens", self.tokens))

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def measure(self, model: LanguageModel, corpora: Any) -> Measurement:
        """`load_memory_bytes` and `peak_memory_bytes`, the latter null where the system has no such counter."""
        tokens = min(self.tokens, longest_context(model.config) or self.tokens)
        batch = model.task.zeros(tokens)
        loaded = load_memory_bytes(model.module)
        counter = "cuda" if model.compute_device.type == "cuda" else "resident"
        protocols = {"peak_memory_bytes": f"forward:1x{tokens}:{counter}"}
        if model.scratch:
            values = {"load_memory_bytes": loaded, "peak_memory_bytes": None}
            return Measurement(values, {"peak_memory_bytes": IN_A_FILE}, protocols)
        try:
            rise = _rise(model, batch)
        except OSError as error:
            reason = f"the peak cannot be read on this system: {error}"
            return Measurement(
                {"load_memory_bytes": loaded, "peak_memory_bytes": None}, {"peak_memory_bytes": reason}, protocols
            )
        return Measurement({"load_memory_bytes": loaded, "peak_memory_bytes": loaded + rise}, {}, protocols)

    def working_bytes(self, token_bytes: int) -> int:
        return self.tokens * token_bytes


def load_memory_bytes(module: nn.Module) -> int:
    """Bytes of the distinct storages behind all parameters and buffers; tied weights count once."""
    tensors = (*module.parameters(), *module.buffers())
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({(storage.device, storage.data_ptr()): storage.nbytes() for storage in storages}.values())


def _rise(model: LanguageModel, batch: Batch) -> int:
    """Rise of memory during a forward, in bytes."""
    _forward(model, batch)  # makes what a first forward makes once: kernels, workspaces, pages of mapped weights
    before = reset_peak(model.compute_device)
    _forward(model, batch)
    return max(0, peak(model.compute_device) - before)


def reset_peak(device: torch.device) -> int:
    """Reset the counter of the peak; returns the bytes that are held now.

    Raises:
        OSError: this system has no such counter.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return_free_heap()
    CLEAR_REFS.write_text(RESET_PEAK)
    return _resident_bytes("VmRSS")


def peak(device: torch.device) -> int:
    """Most bytes held since `reset_peak`.

    Raises:
        OSError: this system has no such counter.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_bytes("VmHWM")


def _forward(model: LanguageModel, batch: Batch) -> None:
    model.logits(model.hidden_states(batch))


def _resident_bytes(field: str) -> int:
    """One field of /proc/self/status, in bytes.

    Raises:
        OSError: no such file or field.
    """
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")
