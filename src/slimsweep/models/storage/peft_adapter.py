"""Adapters in the format of the package peft, written beside a saved model."""

import json
from pathlib import Path

from torch import nn

from slimsweep.linear.adapter import AdapterLinear
from slimsweep.linear.base import PackedLinear, linear_forms

FOLDER = "adapter"
PREFIX = "base_model.model."
"""Prefix of every tensor name in a peft file."""


def adapters_of(module: nn.Module) -> dict[str, AdapterLinear]:
    """Adapters that peft can add to the base model: those on layers that are not packed."""
    forms = {name: form for name, form in linear_forms(module).items() if isinstance(form, AdapterLinear)}
    return {name: form for name, form in forms.items() if not isinstance(form.base, PackedLinear)}


def write_adapters(module: nn.Module, folder: Path) -> Path | None:
    """Write the adapters of a model into a subfolder that `PeftModel.from_pretrained` reads; None without adapters.

    The weights of the base model, on which the adapters were trained, are not written.
    """
    from safetensors.torch import save_file

    adapters = adapters_of(module)
    if not adapters:
        return None
    place = folder / FOLDER
    place.mkdir()
    tensors = {}
    for name, form in adapters.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = form.down.detach().contiguous().cpu()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = form.up.detach().contiguous().cpu()
    save_file(tensors, place / "adapter_model.safetensors", {"format": "pt"})
    ranks = {name: form.settings["rank"] for name, form in adapters.items()}
    # peft multiplies by alpha / rank, and these adapters by their own scale.
    alphas = {name: form.settings["scale"] * form.settings["rank"] for name, form in adapters.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(adapters),
        "base_model_name_or_path": None,
    }
    (place / "adapter_config.json").write_text(json.dumps(config, indent=1))
    return place
