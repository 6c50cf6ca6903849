"""Format `hf`: safetensors, config, tokenizer and a model card, as transformers and the hub expect them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from slimsweep.export.base import Content, Format, Sample, weight_files
from slimsweep.export.model_card import CARD, model_card
from slimsweep.export.sample import compared, sample_batch
from slimsweep.models import anatomy
from slimsweep.models.batches import to_device
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.checkpoint import header
from slimsweep.models.task import Task, task_of

TOLERANCE = 1e-4
"""Relative difference of logits in fp32 between two programs that compute the same."""
ROUNDED_INPUTS = 0.5
"""The same where inputs are rounded to 8 bits too: last bits decide codes; see linear/w8a8.py."""
PER_LAYER = "per_layer_config"


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Format):
    """A folder for `from_pretrained`, or for `slimsweep.load` where a manifest tells what the config cannot.

    Packed layers are written as they are, so a model keeps the bytes that its record tells.
    """

    summary: ClassVar[str] = "safetensors, tokenizer and model card, for transformers"

    def faults(self, model: LanguageModel) -> list[str]:
        return []

    def write(self, content: Content, folder: Path) -> None:
        saved_model.write(content.model, folder)
        write_widths(content.model, folder)
        write_card(content, folder)

    def verify(self, folder: Path, sample: Sample) -> list[str]:
        """Load by `from_pretrained` where the config says all, else by `slimsweep.load`."""
        module, task, program = loaded(folder)
        return [compared(logits_of(module, task, sample), sample, tolerance_of(folder), program)]

    def read(self, folder: Path, model: LanguageModel) -> LanguageModel:
        return read_module(folder, model)

    def weight_bytes(self, folder: Path) -> int:
        return safetensors_bytes(folder)


def read_module(folder: Path, model: LanguageModel) -> LanguageModel:
    """The module that transformers or slimsweep loads, in the dtype and on the device of `model`."""
    read = replace(model, module=loaded(folder, model.dtype)[0].to(model.compute_device), offload=False, scratch=None)
    with torch.no_grad():  # packed integers are unpacked at the first forward of the whole module
        model.task.forward(read.module, to_device(sample_batch(read), model.compute_device))
    return read


def safetensors_bytes(folder: Path) -> int:
    """Bytes of all tensors of the model in a folder, by the headers of its files."""
    tensors = [entry for file in weight_files(folder) for entry in header(file).values()]
    return sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in tensors)


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Task, str]:
    """The module of a folder, its task, and the program that loaded it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    task = task_of(config["architectures"][0])
    if not saved_model.is_plain(folder):
        return saved_model.load(folder, dtype), task, "slimsweep.load"
    import transformers

    kind = getattr(transformers, task.auto_class)
    return kind.from_pretrained(folder, dtype=dtype).eval(), task, "plain transformers"


def logits_of(module: nn.Module, task: Task, sample: Sample) -> torch.Tensor:
    """Logits of a module for the batch of a sample, in fp32."""
    with torch.no_grad():
        return task.forward(module, sample.batch).logits.float()


def tolerance_of(folder: Path) -> float:
    """Allowed relative difference of logits: wider where plain transformers rounds inputs in floats."""
    text = (folder / "config.json").read_text(encoding="utf-8")
    quantization = json.loads(text).get("quantization_config") or {}
    groups = quantization.get("config_groups", {}).values()
    return ROUNDED_INPUTS if any(group.get("input_activations") for group in groups) else TOLERANCE


def write_widths(model: LanguageModel, folder: Path) -> bool:
    """Add transformers' `per_layer_config` to the config of a model of unequal widths; returns whether it fits there.

    transformers 5.17 reads these widths and does not build its models by them: `from_pretrained` still refuses the
    folder, and `slimsweep.load` reads the manifest.
    """
    if saved_model.is_plain(folder) or model.family.encoder is not None:
        return False
    widths = per_layer_widths(model)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if not widths or not _is_readable(config | {PER_LAYER: widths}):
        return False
    file.write_text(json.dumps(config | {PER_LAYER: widths}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return True


def per_layer_widths(model: LanguageModel) -> dict[str, dict[str, int]]:
    """Widths of each block that differ from the config's, by the names of config fields; empty where none differs.

    Another residual width has no place in it, and neither have its blocks then.
    """
    config, shape, family = model.config, anatomy.shape_of(model), model.family
    if shape.channels != config.hidden_size:
        return {}
    found = {}
    for index, block in enumerate(shape.blocks):
        widths = {family.heads_field: block.heads, family.key_value_heads_field: block.key_value_heads}
        widths |= {family.neurons_field: block.neurons} if family.neurons_field else {}
        others = {name: width for name, width in widths.items() if getattr(config, name, width) != width}
        found |= {str(index): others} if others else {}
    return found


def _is_readable(config: dict[str, Any]) -> bool:
    """Whether transformers takes a config; that of Llama wants the heads of each block to divide the width."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        AutoConfig.for_model(**config)
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ArithmeticError):
        return False
    return True


def write_card(content: Content, folder: Path) -> None:
    """Write the model card of a folder that transformers or slimsweep loads."""
    task = content.model.task
    lines = ["from transformers import AutoTokenizer"]
    if saved_model.is_plain(folder):
        lines = [f"from transformers import {task.auto_class}, AutoTokenizer"]
        lines += ["", f'model = {task.auto_class}.from_pretrained("FOLDER")']
    else:
        lines = ["import slimsweep  # the config alone does not tell the shapes of this model", *lines]
        lines += ["", 'model = slimsweep.load("FOLDER")']
    lines.append('tokenizer = AutoTokenizer.from_pretrained("FOLDER")')
    (folder / CARD).write_text(model_card(content.record, "\n".join(lines)), encoding="utf-8")
