"""Store every parameter of a wider model in 16 bits."""

import logging
import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from slimsweep.blockwise.layerwise import LayerReport
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, refuse
from slimsweep.errors import ModelError
from slimsweep.linear.base import dense_parameters, packed_layers, set_dtype, weight_count, zero_count
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.placement.loading import some
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics.finite import all_finite
from slimsweep.techniques.base import StageReport, Technique
from slimsweep.techniques.layerwise import planned_layers

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
    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Change every parameter in place, or none.

        Raises:
            ModelError: parameters that the dtype cannot hold, all of them by name.
        """
        notes = self._narrow_already(model)
        if notes:
            log.warning("%s %s", type(self).__name__, notes["warning"])
        else:
            notes = self._movement(model.module, _dense_parameters(model.module), getattr(torch, self.dtype))
            self._convert(model)
        return StageReport(_measured_layers(model), notes)

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Change every parameter's dtype, or none."""
        notes = self._narrow_already(skeleton)
        if not notes:
            self._convert(skeleton)
        return StageReport(planned_layers(skeleton, skeleton.targets()), notes)

    def _narrow_already(self, model: LanguageModel) -> dict[str, Any]:
        """A warning where no parameter is wider than the dtype; else nothing."""
        itemsize = getattr(torch, self.dtype).itemsize
        if any(parameter.element_size() > itemsize for parameter in _dense_parameters(model.module).values()):
            return {}
        stored = str(model.dtype).removeprefix("torch.")
        return {"warning": f"changed nothing: the model is stored in {stored} already; dtype=float32 loads it wider"}

    def _convert(self, model: LanguageModel) -> None:
        """Give parameters, packed layers and config the dtype."""
        dtype = getattr(torch, self.dtype)
        for parameter in _dense_parameters(model.module).values():
            parameter.data = parameter.data.to(dtype)  # .data, so that tied weights stay tied
        set_dtype(model.module, dtype)
        model.config.dtype = dtype

    def _movement(self, module: nn.Module, parameters: dict[str, nn.Parameter], dtype: torch.dtype) -> dict[str, Any]:
        """Relative error (Frobenius) of rounding the parameters, and the nonzero ones that would become zero."""
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


def _measured_layers(model: LanguageModel) -> list[LayerReport]:
    """The linear layers with their zeros."""
    reports = []
    for name, layer in model.targets().items():
        reports.append(LayerReport(name, weight_count(layer), zero_count(layer)))
    return reports
