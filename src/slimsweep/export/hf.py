"""Format `hf`: safetensors, config, tokenizer and a model card, as transformers and the hub expect them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from slimsweep.export.base import Content, Format, Sample
from slimsweep.export.sample import compared
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.storage import saved_model
from slimsweep.models.task import task_of

TOLERANCE = 1e-4
"""Relative difference of logits in fp32 between two programs that compute the same."""


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Format):
    """A folder for `from_pretrained`, or for `slimsweep.load` where a manifest tells what the config cannot."""

    summary: ClassVar[str] = "safetensors, tokenizer and model card, for transformers"

    def faults(self, model: LanguageModel) -> list[str]:
        return []

    def write(self, content: Content, folder: Path) -> None:
        saved_model.write(content.model, folder)

    def verify(self, folder: Path, sample: Sample) -> list[str]:
        """Load by `from_pretrained` where the config says all, else by `slimsweep.load`."""
        architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
        task = task_of(architecture)
        is_plain = saved_model.is_plain(folder)
        if is_plain:
            import transformers

            module = getattr(transformers, task.auto_class).from_pretrained(folder, dtype=torch.float32).eval()
        else:
            module = saved_model.load(folder, torch.float32)
        with torch.no_grad():
            logits = task.forward(module, sample.batch).logits
        program = "plain transformers" if is_plain else "slimsweep.load"
        return [compared(logits, sample, TOLERANCE, program)]
