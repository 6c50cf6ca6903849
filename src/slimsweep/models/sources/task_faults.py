"""Check that a checkpoint can do the task that a config asks of it, before its weights are read."""

from collections.abc import Callable
from typing import Any

import torch

from slimsweep.models.families import family_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement import loading
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.task import TASKS, Task


def task_faults(name: str, config: Any, task: Task, skeleton: Callable[[], LanguageModel]) -> list[str]:
    """One fault where a model of this transformers config cannot do the task, with the tasks that it can do.

    Args:
        skeleton: builds the model for this task on the meta device.
    """
    if task.architecture(config.model_type) and _has_its_parts(skeleton()):
        return []
    allowed = [other.name for other in TASKS.values() if other != task and _is_able(config, other)]
    can = f"it can do {', '.join(allowed)}: set model.task={allowed[0]}" if allowed else "no known task is possible"
    return [f"model {name} is of type {config.model_type}, which cannot do task={task.name}; {can}"]


def _is_able(config: Any, task: Task) -> bool:
    """Whether transformers has a class for the task, with its parts where the family says."""
    if task.architecture(config.model_type) is None:
        return False
    try:
        module = loading.build(config, task, torch.float32, torch.device("meta"), remote_code=False)
    except (*loading.REFUSALS, AttributeError, ArithmeticError):
        return False
    return _has_its_parts(Skeleton(module=module, family=family_of(config.model_type), task=task))


def _has_its_parts(model: LanguageModel) -> bool:
    """Whether blocks and head are where the family says: classes for other tasks have others."""
    try:
        return bool(model.blocks and model.module.get_submodule(model.family.head))
    except AttributeError:
        return False
