"""Quantization section of `config.json`, by which compressed-tensors loads packed layers."""

import re
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from slimsweep.linear.base import is_plain, linear_forms
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement import loading


def quantization_config(model: LanguageModel) -> dict[str, Any] | None:
    """The `quantization_config` of a model whose packed layers compressed-tensors can express; None for any other.

    It lists the layers of each scheme by name, and what stays dense as `ignore`.
    """
    if not _has_its_names_and_layers(model):
        return None
    schemes: dict[str, list[str]] = defaultdict(list)
    groups: dict[str, dict[str, Any]] = {}
    for name, layer in linear_forms(model.module).items():
        scheme = layer.compressed_tensors_scheme()
        if scheme is None:
            return None
        schemes[repr(scheme)].append(name)
        groups[repr(scheme)] = scheme
    formats = {scheme["format"] for scheme in groups.values()}
    if not groups or len(formats) > 1:
        return None
    dense = [name for name, layer in model.module.named_modules() if is_plain(layer)]
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop(),
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {"targets": _targets(names), **groups[key]}
            for index, (key, names) in enumerate(schemes.items())
        },
        "ignore": dense,
    }


def _has_its_names_and_layers(model: LanguageModel) -> bool:
    """Whether files name the tensors as the module does, and packed layers stand where transformers has an nn.Linear.

    GPT-2 has another kind of layer there, which compressed-tensors passes over. Falcon's multiplies by a dense weight.
    """
    from transformers.core_model_loading import revert_weight_conversion

    tensors = dict(model.module.named_parameters())
    built = loading.build(model.config, model.task, torch.float32, torch.device("meta"), remote_code=False)
    is_named_alike = revert_weight_conversion(model.module, tensors).keys() == tensors.keys()
    return is_named_alike and all(
        getattr(type(built.get_submodule(name)), "forward", None) is nn.Linear.forward
        for name in linear_forms(model.module)
    )


def _targets(names: list[str]) -> list[str]:
    return [f"re:{re.escape(name)}$" for name in names]
