"""Model that a program holds already: a transformers module with its tokenizer."""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from slimsweep.errors import ModelError
from slimsweep.models.families import family_of
from slimsweep.models.language_model import LanguageModel, weights_digest
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.sources.base import CPU, META, ModelSource
from slimsweep.models.task import TASKS


@dataclass(frozen=True, kw_only=True)
class InMemoryModel(ModelSource):
    """A module that is copied and never changed. Its forms, widths and masks are taken as they are."""

    module: Any = field(repr=False, compare=False)
    """The transformers model."""
    given_tokenizer: Any = field(default=None, repr=False, compare=False)
    """Its tokenizer; None where nothing reads text."""

    def folder(self) -> Path:
        raise ModelError(f"model {self.name} is in memory and has no folder: save it with save_pretrained first")

    def config(self) -> Any:
        return self.module.config

    def tokenizer(self) -> Any:
        return self.given_tokenizer

    def faults(self) -> list[str]:
        try:
            family_of(self.module.config.model_type)
        except ModelError as error:
            return [str(error)]
        if not TASKS[self.task].knows(type(self.module).__name__):
            return [
                f"{type(self.module).__name__} is no model of task={self.task}: give task= one of {', '.join(TASKS)}"
            ]
        return []

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return weights_digest(self._wrap(self.module, self._device))

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def skeleton(self, dtype: torch.dtype = torch.float32) -> Skeleton:
        """The module's shapes on the meta device; its weights are not copied for that."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        shapes = {id(one): _on_meta(one, dtype) for one in tensors}
        return self._wrap(copy.deepcopy(self.module, shapes), META)

    def load(self, dtype: torch.dtype, device: torch.device, offload: bool = False) -> LanguageModel:
        resting = CPU if offload else device
        module = copy.deepcopy(self.module).to(device=resting)
        if next(module.parameters()).dtype != dtype:
            module = module.to(dtype=dtype)
        return self._wrap(module, device, tokenizer=self.given_tokenizer, offload=offload)

    def load_mapped(self, dtype: torch.dtype, scratch_dir: Path) -> LanguageModel:
        raise ModelError("memory_budget reads a model from disk, and this one is in memory: give its folder instead")

    def _wrap(self, module: torch.nn.Module, device: torch.device, **fields: Any) -> LanguageModel:
        if module is not self.module:
            return super()._wrap(module, device, **fields)
        family, task = family_of(module.config.model_type), TASKS[self.task]
        return LanguageModel(module=module, family=family, task=task, compute_device=device, **fields)


def _on_meta(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor's shape alone, as a parameter where it is one."""
    kind = dtype if tensor.is_floating_point() else tensor.dtype
    shape = torch.empty(tensor.shape, dtype=kind, device=META)
    return torch.nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else shape
