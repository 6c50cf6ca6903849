"""Format `compressed-tensors`: packed integers, or 2:4 zeros, as transformers and vLLM read them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slimsweep.errors import ExportError
from slimsweep.export.base import Content, Format, Sample
from slimsweep.export.hf import loaded, logits_of, read_module, safetensors_bytes, tolerance_of, write_card
from slimsweep.export.sample import compared
from slimsweep.linear.base import kinds_of, linear_forms, weight_2d
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.plain import plain_config
from slimsweep.models.storage.quantization_config import quantization_config

PACKERS = "rtn, gptq, awq, autoround, qat, selective, dynamic_int8 and smoothquant, and SparseGPT with bits="
KEPT, OF = 2, 4


@dataclass(frozen=True, kw_only=True)
class CompressedTensors(Format):
    """Packed layers with their scheme in config.json; for 2:4 zeros the entry `sparsity_config` names the layers.

    compressed-tensors 0.19 reads no sparse file format any more: weights with 2:4 zeros are stored dense.
    """

    summary: ClassVar[str] = "packed integers or 2:4 zeros, for plain transformers and vLLM"
    packages: ClassVar[tuple[str, ...]] = ("compressed_tensors",)

    def faults(self, model: LanguageModel) -> list[str]:
        forms = linear_forms(model.module)
        if forms and quantization_config(model) is None:
            return [
                f"its layers are stored as {kinds_of(forms)} in a {model.config.model_type}, which this format cannot "
                f"express. It packs layers of {PACKERS}, each symmetric or asymmetric, on families with nn.Linear"
            ]
        if plain_config(model) is None:
            return ["its config cannot tell the widths of its blocks, and this format has no manifest. Use hf"]
        if forms or is_semi_structured(model):
            return []
        return [f"no layer is packed and none has 2:4 zeros. Use hf, or pack the weights with one of {PACKERS}"]

    def write(self, content: Content, folder: Path) -> None:
        saved_model.write(content.model, folder)
        write_sparsity(content.model, folder)
        write_card(content, folder)

    def verify(self, folder: Path, sample: Sample) -> list[str]:
        """Load by plain `from_pretrained`."""
        if not saved_model.is_plain(folder):
            raise ExportError("plain transformers cannot load it: it has a manifest")
        module, task, program = loaded(folder)
        return [compared(logits_of(module, task, sample), sample, tolerance_of(folder), program)]

    def read(self, folder: Path, model: LanguageModel) -> LanguageModel:
        return read_module(folder, model)

    def weight_bytes(self, folder: Path) -> int:
        return safetensors_bytes(folder)


def is_semi_structured(model: LanguageModel) -> bool:
    """Whether any linear layer has 2:4 zeros; of a skeleton, whether it may have: half of a layer's weights."""
    if isinstance(model, Skeleton):
        return any(2 * zeros >= model.targets()[name].weight.numel() for name, zeros in model.zeros.items())
    return bool(semi_structured(model))


def semi_structured(model: LanguageModel) -> dict[str, Any]:
    """Linear layers of the blocks that keep at most two of every four neighbouring inputs, by name."""
    found = {}
    for name, layer in model.targets().items():
        weight = weight_2d(layer)
        if weight.shape[1] % OF == 0 and int((weight.unflatten(1, (-1, OF)) != 0).sum(-1).max()) <= KEPT:
            found[name] = layer
    return found


def write_sparsity(model: LanguageModel, folder: Path) -> None:
    """Name the layers with 2:4 zeros in config.json; where nothing is packed they get a scheme without rounding."""
    sparse = sorted(semi_structured(model))
    if not sparse:
        return
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    targets = [f"re:{re.escape(name)}$" for name in sparse]
    scheme = {
        "quant_method": "compressed-tensors",
        "format": "dense",
        "quantization_status": "frozen",  # nothing is compressed: transformers then leaves plain layers
        "config_groups": {"group_0": {"targets": targets, "weights": None, "format": "dense"}},
        "ignore": [],
    }
    quantization = config.get("quantization_config") or scheme
    zeros, weights = counts(model)
    quantization["sparsity_config"] = {
        "format": "dense",
        "sparsity_structure": f"{KEPT}:{OF}",
        "global_sparsity": zeros / weights,
        "targets": targets,
        "ignore": [],
    }
    config["quantization_config"] = quantization
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def counts(model: LanguageModel) -> tuple[int, int]:
    """Exact zeros, and weights, of the linear layers of the blocks."""
    zeros = weights = 0
    for layer in model.targets().values():
        weight = weight_2d(layer)
        zeros += int((weight == 0).sum())
        weights += weight.numel()
    return zeros, weights
