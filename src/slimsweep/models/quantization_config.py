"""What `config.json` must say for plain transformers and vLLM to load packed layers, through compressed-tensors."""

import re
from collections import defaultdict
from typing import Any

from slimsweep.models.language_model import LanguageModel, is_linear
from slimsweep.packed import PackedLinear, packed_layers


def quantization_config(model: LanguageModel) -> dict[str, Any] | None:
    """The `quantization_config` of a model whose packed layers compressed-tensors can express; None for any other.

    It lists the layers of each scheme by name, and what stays dense as `ignore`.
    """
    schemes: dict[str, list[str]] = defaultdict(list)
    groups: dict[str, dict[str, Any]] = {}
    for name, layer in packed_layers(model.module).items():
        scheme = layer.compressed_tensors_scheme()
        if scheme is None:
            return None
        schemes[repr(scheme)].append(name)
        groups[repr(scheme)] = scheme
    formats = {scheme["format"] for scheme in groups.values()}
    if not groups or len(formats) > 1:
        return None
    dense = [
        name for name, layer in model.module.named_modules() if is_linear(layer) and not isinstance(layer, PackedLinear)
    ]
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


def _targets(names: list[str]) -> list[str]:
    return [f"re:{re.escape(name)}$" for name in names]
