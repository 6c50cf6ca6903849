"""Store every parameter of a wider model in 16 bits."""

import logging
import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from slimsweep.blockwise.layerwise import LayerReport
from slimsweep.checks import choice_faults, refuse
from slimsweep.errors import ModelError
from slimsweep.linear.base import dense_parameters, packed_layers, set_dtype, weight_count, zero_count
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement.loading import some
from slimsweep.numerics.finite import all_finite
from slimsweep.techniques.base import StageReport, Technique

log = logging.getLogger(__name__)

DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Half(Technique):
    """Round parameters to bf16 or fp16: layers, embeddings, head, norms and biases.

    Buffers such as rotary frequencies stay as they are, and so does what packed layers store; these compute in the new
    dtype from then on. A model that holds no wider parameter is left alone.
    """

    version: ClassVar[int] = 1

    dtype: str = "bfloat16"
    """`bfloat16` (8 bits of precision, the range of fp32) or `float16` (11 bits, up to 65,504)."""

    def __post_init__(self) -> None:
        refuse(choice_faults("dtype", [self.dtype], DTYPES))

    def faults(self, skeleton: LanguageModel) -> list[str]:
        return []

    @torch.no_grad()
    def apply(self, model: LanguageModel, token_ids: Int[Tensor, "sequence token"] | None, seed: int) -> StageReport:
        """Change every parameter in place, or none.

        Raises:
            ModelError: parameters that the dtype cannot hold, all of them by name.
        """
        dtype, parameters = getattr(torch, self.dtype), _dense_parameters(model.module)
        if all(parameter.element_size() <= dtype.itemsize for parameter in parameters.values()):
            return StageReport(_layers(model), {"warning": self._narrow_already(model)})
        notes: dict[str, Any] = {} if model.is_meta else self._movement(model.module, parameters, dtype)
        for parameter in parameters.values():
            parameter.data = parameter.data.to(dtype)  # .data, so that tied weights stay tied
        set_dtype(model.module, dtype)
        model.config.dtype = dtype
        return StageReport(_layers(model), notes)

    def _narrow_already(self, model: LanguageModel) -> str:
        stored = str(model.dtype).removeprefix("torch.")
        warning = f"changed nothing: the model is stored in {stored} already; dtype=float32 loads it wider"
        if not model.is_meta:  # the check before a job walks through the stages too
            log.warning("%s %s", type(self).__name__, warning)
        return warning

    def _movement(self, module: nn.Module, parameters: dict[str, nn.Parameter], dtype: torch.dtype) -> dict[str, Any]:
        """Round parameters; returns the relative error (Frobenius), and the nonzero ones that become zero."""
        errors: dict[str, float] = {}
        zeroed: dict[str, int] = {}
        too_large = []
        for name, parameter in parameters.items():
            before = parameter.data.float()
            after = before.to(dtype).float()
            if not all_finite(after):
                too_large.append(name)
                continue
            norm = float(before.norm())
            errors[name] = float((after - before).norm()) / norm if norm else 0.0
            zeroed[name] = int(before.count_nonzero()) - int(after.count_nonzero())
        for name, layer in packed_layers(module).items():  # they compute in the new dtype from then on
            if not all_finite(layer.dequantized().to(dtype)):
                too_large.append(name)
        if too_large:
            raise ModelError(
                f"{self.dtype} holds magnitudes up to {torch.finfo(dtype).max:g}; there are larger ones, or NaN, in "
                f"{some(too_large, len(too_large))}. Choose dtype=bfloat16 for this stage, or leave the stage out."
            )
        zeroed = {name: count for name, count in zeroed.items() if count}
        if zeroed:
            log.warning("%s rounded %d nonzero parameters to zero", type(self).__name__, sum(zeroed.values()))
        worst = max(errors, key=errors.__getitem__)
        mean = statistics.fmean(errors.values())
        return {
            "rounding_error": {"mean": mean, "largest": errors[worst], "parameter": worst},
            "rounded_to_zero": zeroed,
        }


def _dense_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Floating-point parameters by name, tied ones once; not what packed layers store."""
    return {name: value for name, value in dense_parameters(module).items() if value.is_floating_point()}


def _layers(model: LanguageModel) -> list[LayerReport]:
    """The linear layers with their zeros, measured; on the meta device those planned before."""
    reports = []
    for name, layer in model.targets().items():
        zeros = model.zeros.get(name, 0) if model.is_meta else zero_count(layer)
        reports.append(LayerReport(name, weight_count(layer), zeros))
    return reports
