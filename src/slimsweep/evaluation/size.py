"""Size of a model: parameters, zeros, and bytes in memory, in a bitmap format and on disk."""

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.evaluation.cost import zero_count
from slimsweep.evaluation.quantity import Quantity
from slimsweep.linear.base import (
    dense_parameters,
    linear_forms,
    packed_layers,
    stored_bytes,
    value_bits,
    weight_count,
)
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.models.storage import saved_model
from slimsweep.models.storage.plain import plain_config

FORMAT_DTYPES = {  # names of the safetensors format, in the order of its writer, narrow to wide
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
ORIGINAL_BYTES = 2  # per parameter: what a model takes as it is usually published, in 16 bits


@dataclass(frozen=True, kw_only=True)
class Size(Metric):
    """Sizes of a model; tied weights count once everywhere.

    `weight_bytes` is what the parameters take in memory; a zero takes as much as any other value.
    `compression_factor` is 2 bytes for each parameter of the model as loaded, over `weight_bytes`: 1 for a
    16-bit model, masked or not, and 0.5 for one held in 32 bits. `bitmap_bytes` is what would remain if the
    targeted layers stored one bit for each weight and their nonzero values only; no format of this package.
    `bits_per_weight` is what the linear layers of all blocks store for each of their parameters, scales and tables
    included.
    `checkpoint_bytes` is the length of the single safetensors file that holds what saving the model writes.
    """

    needs_weights: ClassVar[bool] = False
    declares: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            field="parameters",
            label="parameters",
            unit="parameters",
            higher_is_better=False,
            group="cost",
            heading="parameters M",
            format=".2f",
            divisor=1e6,
            place=14,
            tolerance=0.0,
        ),
        Quantity(
            field="nonzero_parameters",
            label="nonzero parameters",
            unit="parameters",
            higher_is_better=False,
            group="cost",
            heading="nonzero M",
            format=".2f",
            divisor=1e6,
            place=15,
            tolerance=0.0,
        ),
        Quantity(field="sparsity", label="sparsity", unit="fraction", format=".4f", tolerance=0.0),
        Quantity(
            field="weight_bytes",
            kind="size",
            label="weights in memory",
            unit="bytes",
            higher_is_better=False,
            group="cost",
            heading="weights MiB",
            format=".1f",
            divisor=2**20,
            place=10,
        ),
        Quantity(
            field="bitmap_bytes",
            label="bytes in a bitmap format",
            unit="bytes",
            higher_is_better=False,
            group="cost",
            heading="bitmap MiB",
            format=".1f",
            divisor=2**20,
            place=13,
        ),
        Quantity(
            field="bits_per_weight",
            label="stored bits per weight",
            higher_is_better=False,
            scale="log",
            group="cost",
            heading="bits/weight",
            format=".2f",
            place=12,
        ),
        Quantity(field="compression_factor", label="compression factor", higher_is_better=True, format=".2f"),
        Quantity(
            field="checkpoint_bytes",
            kind="file",
            label="file on disk",
            unit="bytes",
            higher_is_better=False,
            group="cost",
            heading="file MiB",
            format=".1f",
            divisor=2**20,
            place=11,
        ),
    )

    def quantities(self) -> list[Quantity]:
        return list(self.declares)

    def measure(self, model: LanguageModel, corpora: Any) -> Measurement:
        targets = model.targets()
        zeros = {name: zero_count(model, name, layer) for name, layer in targets.items()}
        weights = {name: weight_count(layer) for name, layer in targets.items()}
        parameters = parameter_count(model.module)
        weight_bytes = sum(parameter.nbytes for parameter in model.module.parameters())
        saved_bits = sum(
            zeros[name] * value_bits(layer) - 8 * math.ceil(weights[name] / 8) for name, layer in targets.items()
        )
        stored_bits = 8 * sum(stored_bytes(layer) for layer in targets.values())
        return Measurement(
            values={
                "parameters": parameters,
                "nonzero_parameters": nonzero_parameters(model),
                "sparsity": sum(zeros.values()) / sum(weights.values()),
                "weight_bytes": weight_bytes,
                "bitmap_bytes": weight_bytes - int(saved_bits // 8),
                "bits_per_weight": stored_bits / sum(weights.values()),
                "compression_factor": ORIGINAL_BYTES * model.original_parameters / weight_bytes,
                "checkpoint_bytes": safetensors_bytes(saved_tensors(model)),
            }
        )


def nonzero_parameters(model: LanguageModel) -> int:
    """Parameters that are not exactly zero; on the meta device those the plan would leave."""
    if model.is_meta:
        return parameter_count(model.module) - sum(model.zeros.values())
    found = 0
    for parameter in dense_parameters(model.module).values():
        found += int(parameter.count_nonzero())
        model.release()
    for layer in packed_layers(model.module).values():
        found += layer.weight_count - layer.zero_count
        model.release()
    return found


def saved_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """The tensors of a saved model: parameters, tied ones once, and persistent buffers.

    They carry the names of the file, which for some families (GPT-NeoX) are not those of the module.
    """
    if linear_forms(model.module) or plain_config(model) is None:  # saved with a manifest, under the module's names
        return saved_model.saved_tensors(model.module)
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model.module, saved_model.saved_tensors(model.module))


def safetensors_bytes(tensors: dict[str, Tensor]) -> int:
    """Length of a safetensors file of these tensors, without writing it.

    Source: the safetensors format: 8 bytes of length, a JSON header padded to a multiple of 8, the values.
    The writer lays tensors out from wide types to narrow ones, then by name, which decides the offsets.
    """
    order = list(FORMAT_DTYPES)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors, key=lambda name: (-order.index(tensors[name].dtype), name)):
        start, end = end, end + tensors[name].nbytes
        dtype, shape = FORMAT_DTYPES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    header_bytes = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + math.ceil(header_bytes / 8) * 8 + end
