"""Move outliers of the inputs into the weights, then round both to 8 bits."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.checks import number_faults
from slimsweep.linear.base import PackedLinear
from slimsweep.linear.w8a8 import DynamicInt8Linear
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.scale_folding import Place
from slimsweep.techniques.quantization.rescaling import Inputs, RescalingQuantizer, Scale

LEAST = 1e-5
"""No scale is smaller, as in the paper's code."""


@dataclass(frozen=True, kw_only=True)
class SmoothQuant(RescalingQuantizer):
    """Move outliers of inputs into the weights, then quantize weights and inputs to 8 bits.

    Each channel of a norm's output is divided by s = max|X|^alpha / max|W|^(1 - alpha), and the weights that read it
    are multiplied by s. All targeted layers then get 8-bit weights, with inputs rounded for each token. Layers that no
    norm feeds are quantized without scaling. A model in which no norm can be scaled is refused.

    Source: arXiv:2211.10438, eq. 4. Departures: weights have one scale per row instead of one per layer. All linear
    layers are quantized, but not the matrix products inside attention. A channel that is always 0 keeps its scale.
    """

    version: ClassVar[int] = 1
    merge = torch.maximum

    alpha: float | int = 0.5
    """Part of the difficulty that moves from inputs to weights, [0, 1]."""
    inputs: str = "dense"
    """Tensors whose maxima are taken: outputs of the `dense` blocks before (paper), or of the `compressed` ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "alpha", float(self.alpha))

    def _bad_values(self) -> list[str]:
        return super()._bad_values() + number_faults("alpha", self.alpha, "[0, 1]")

    def faults(self, skeleton: LanguageModel) -> list[str]:
        faults = super().faults(skeleton)
        if faults:
            return faults
        places, reasons = self.places(skeleton, self.targets(skeleton))
        if places:
            return []
        name, reason = next(iter(reasons.items()))
        return [
            f"no input of this model's targeted layers can be smoothed ({name}: {reason}): use technique=dynamic_int8, "
            "which rounds the same way without smoothing"
        ]

    def form(self, shape: tuple[int, int]) -> tuple[type[PackedLinear], dict[str, Any]]:
        return DynamicInt8Linear, {}

    def rescales(self, place: Place) -> bool:
        return place.is_norm

    def statistic(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, " in"]:
        """The largest magnitude of each channel; over batches the largest counts, not the sum."""
        return inputs.abs().amax(dim=0).float()

    def choose(
        self,
        place: Place,
        weight: Float[Tensor, "out in"],
        seen: Float[Tensor, " in"],
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Scale:
        largest = weight.abs().amax(dim=0)
        scale = (seen**self.alpha / largest ** (1 - self.alpha)).clamp(min=LEAST)
        channels = torch.where((seen > 0) & (largest > 0), scale, 1.0)
        return Scale(channels, {"smoothed": [float(channels.min()), float(channels.max())]})

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Inputs | None = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> DynamicInt8Linear:
        return DynamicInt8Linear.from_weight(weight)
