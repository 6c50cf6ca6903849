"""Memory plan of a job under a budget, shown and checked before its weights load."""

import re
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Planned(Protocol):
    """Protocol of an experiment as a memory plan reads it."""

    model: Any
    stages: tuple[Any, ...]
    calibration: Any
    metrics: dict[str, Any]
    memory_budget: int | None
    needs_calibration: bool
    resolved_dtype: str
    resolved_device: str


UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}
PROCESS_BYTES = 900 * 10**6
"""Python, torch and the libraries around them, measured on a CPU build with a tokenizer loaded."""
ACTIVATION_SHARE = 8
"""Activations of all calibration sequences that take more than the budget over this rest in a file."""
LIVE_WIDTHS = 12
"""Tensors of the residual width alive at once in a forward, about; those of neurons are 3."""


@dataclass(frozen=True)
class Part:
    """One line of a plan."""

    what: str
    bytes: int


def parse_budget(given: Any) -> int | None:
    """Bytes of `6 GiB`, `800MB` and the like; None for null.

    Raises:
        ValueError: anything else.
    """
    if given is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GiB|MiB|GB|MB)\s*", str(given))
    if not found or float(found[1]) == 0:
        raise ValueError(
            f"memory_budget={given!r}: give a number with its unit, such as 6GiB or 800MB (units: {', '.join(UNITS)})"
        )
    return round(float(found[1]) * UNITS[found[2]])


def plan(experiment: Planned) -> list[Part]:
    """Estimate, from shapes, the parts that are resident at the fullest moment."""
    import torch

    from slimsweep.linear.base import layer_shape
    from slimsweep.models.batch_sizes import HEAD_NUMBERS, LOSS_NUMBERS

    skeleton, dtype = experiment.model.skeleton(), getattr(torch, experiment.resolved_dtype)
    after = skeleton.copy()
    for stage in experiment.stages:
        stage.technique.plan(after)
    stored = _form_bytes(after.module, dtype.itemsize)
    outside = sum(parameter.numel() for parameter in skeleton.module.parameters())
    shapes, largest = [], 0
    for block in skeleton.blocks:
        size = sum(parameter.numel() for parameter in block.parameters())
        outside, largest = outside - size, max(largest, size)
        shapes.append([layer_shape(layer) for layer in skeleton.linears(block).values()])
    width = skeleton.config.get_text_config().hidden_size
    neurons = max((out for block in shapes for out, _ in block), default=width)
    token = (LIVE_WIDTHS * width + 3 * neurons) * dtype.itemsize  # of a forward through a block
    compressing = max(
        (stage.technique.working_bytes(block) for stage in experiment.stages for block in shapes), default=0
    )
    logits = 4 * (HEAD_NUMBERS + 3 * LOSS_NUMBERS)  # of a part what the loss reads, makes and returns
    measuring = max((metric.working_bytes(token) for metric in experiment.metrics.values()), default=0) + logits
    parts = [
        Part("Python and its libraries", PROCESS_BYTES),
        Part("weights outside the blocks", outside * dtype.itemsize),
        Part("one block", largest * dtype.itemsize),
        Part("packed or factored weights", stored),
        *_calibration_parts(experiment, width * dtype.itemsize, token),
        Part("compressing one block" if compressing > measuring else "measuring", max(compressing, measuring)),
    ]
    return [part for part in parts if part.bytes]


def _form_bytes(module: Any, itemsize: int) -> int:
    """Bytes of all packed and factored layers: codes as they are, parameters of the model in its dtype."""
    from slimsweep.linear.base import codes, linear_forms

    coded = {id(tensor) for tensor in codes(module).values()}
    # By id, since forms of tied layers share their tensors.
    tensors = {id(tensor): tensor for layer in linear_forms(module).values() for tensor in layer.storage.values()}
    return sum(part.nbytes if place in coded else part.numel() * itemsize for place, part in tensors.items())


def _calibration_parts(experiment: Planned, hidden_bytes: int, token_bytes: int) -> list[Part]:
    """Hidden states of the calibration text between two blocks, and a forward of it through one."""
    if not experiment.needs_calibration:
        return []
    calibration = experiment.calibration
    is_whole = any(stage.technique.requirements.whole_text for stage in experiment.stages)
    resting = min(calibration.hidden_bytes(hidden_bytes), experiment.memory_budget // ACTIVATION_SHARE)
    return [
        Part("activations of the calibration text", resting),
        # Beside what compressing takes, since allocators keep some of it.
        Part("a forward of the calibration text", calibration.working_bytes(token_bytes, is_whole)),
    ]


def faults(experiment: Planned) -> list[str]:
    """Reasons why an experiment cannot run block by block, or not within its budget."""
    faults = [
        f"technique.{stage.name}: memory_budget works block by block, and this technique looks at the whole model at "
        "once: leave one of them out"
        for stage in experiment.stages
        if stage.technique.requirements.whole_model
    ]
    if experiment.resolved_device != "cpu":
        faults.append("memory_budget bounds host memory of runs on the CPU: set device=cpu, or use offload=true")
    if experiment.model.weights != "trained":
        faults.append(f"memory_budget reads trained weights from files, and model.weights={experiment.model.weights}")
    return faults or _room_faults(plan(experiment), experiment.memory_budget)


def _room_faults(parts: list[Part], budget: int) -> list[str]:
    import psutil
    import torch

    from slimsweep.models.placement.container_memory import tightest_limit
    from slimsweep.models.placement.loading import free_bytes

    total, free = sum(part.bytes for part in parts), free_bytes(torch.device("cpu"))
    if total > budget:
        reason = (
            "memory_budget is less than this experiment holds at once: give more, shorter calibration text, a smaller "
            "evaluation.batch_tokens, or a technique without Hessians"
        )
    elif total > free:
        limit, where = tightest_limit(), ""
        if limit and limit.limit_bytes < psutil.virtual_memory().total:
            where = f" of the {limit.limit_bytes / 2**30:.2f} GiB that the container or job may use (cgroup)"
        reason = f"memory has {free / 2**30:.2f} GiB free{where}, less than this experiment holds at once"
    else:
        return []
    return ["\n".join([reason, *lines(parts, budget)])]


def lines(parts: list[Part], budget: int) -> list[str]:
    """A plan for people."""
    total = sum(part.bytes for part in parts)
    rows = [*((part.what, part.bytes) for part in parts), ("together, about", total), ("memory_budget", budget)]
    widest = max(len(what) for what, _ in rows)
    return [f"  {what.ljust(widest)}  {size / 2**30:6.2f} GiB" for what, size in rows]
