"""Give each row its own levels, nearest where the loss bends most, and keep few weights apart."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.blockwise.fisher import fisher_diagonal
from slimsweep.blockwise.layerwise import LayerReport, replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, number_faults
from slimsweep.linear.base import PackedLinear, weight_2d
from slimsweep.linear.codebook import CodebookLinear
from slimsweep.linear.mask import removed as removed_of
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics import counts, masks
from slimsweep.numerics.kmeans import EXACT_LEVELS, row_levels
from slimsweep.numerics.parallel import parallel_map
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layerwise import report_of
from slimsweep.techniques.quantization.base import BITS, PackedStorage

FRACTIONS = ("outlier_fraction", "sensitive_fraction")


@dataclass(frozen=True, kw_only=True)
class SqueezeLLM(PackedStorage, Technique):
    """Cluster each row's weights by Fisher-weighted k-means; outliers and the most sensitive weights stay in bf16.

    `outlier_fraction` goes by magnitude over the layer, then `sensitive_fraction` by Fisher information; a removed
    weight is kept apart only where nothing else is left. Levels are stored in bf16, codes chosen after.

    Source: arXiv:2306.07629, sec. 4.1 (eq. 4) and 4.2. Departures: up to 4 bits the clusters are the
        exact optimum instead of the result of iterations. With `preserve_sparsity`, 0 is a level of each row that has
        removed weights. Gradients are of whole calibration sequences, and of the model at the start of the stage.
    """

    version: ClassVar[int] = 2

    bits: int = 4
    """Bits of a code, each row having 2^bits levels: 2, 3, 4 or 8."""
    outlier_fraction: float | int = 0.004
    """Fraction of each layer's weights kept apart for their magnitude, [0, 0.5]. Fraction, not percent."""
    sensitive_fraction: float | int = 0.0005
    """Fraction kept apart for their Fisher information, among the others, [0, 0.5]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in FRACTIONS:
            object.__setattr__(self, name, float(getattr(self, name)))

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + choice_faults("bits", [self.bits], BITS)
        for name in FRACTIONS:
            faults += number_faults(name, getattr(self, name), "[0, 0.5]", "a fraction and not percent")
        return faults

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True, gradients=True)

    def form(self, shape: tuple[int, int]) -> tuple[type[PackedLinear], dict[str, Any]]:
        return CodebookLinear, {"bits": self.bits, "outliers": sum(self._kept_apart(math.prod(shape)))}

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        targets = self.targets(model)
        fisher = fisher_diagonal(model, list(targets), context.batches)

        def solve(name: str) -> LayerReport:
            layer = targets[name]
            packed = self.compress_layer(weight_2d(layer).float(), fisher.pop(name), removed=removed_of(layer))
            return replace_weight(model, name, packed)

        return report_of(parallel_map(solve, targets, model.compute_device))

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Float[Tensor, "out in"],
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> CodebookLinear:
        """The layer that stores a weight; `prepared` is its diagonal Fisher information, on any scale."""
        outliers, zeros = self.outliers(weight, prepared, removed), self.zeros(removed)
        zeros = torch.zeros_like(outliers) if zeros is None else zeros & ~outliers
        most = 2**self.bits
        holds = zeros.any(dim=1)
        if most <= EXACT_LEVELS:  # 0 is one of the clusters
            every = torch.full_like(holds, most, dtype=torch.long)
            table = row_levels(weight, prepared, ~outliers, every, most, anchored=zeros)
            at = table.abs().argmin(dim=1, keepdim=True)
            table = torch.where(holds[:, None], table.scatter(1, at, 0), table)
        else:  # of 256 levels one is little to lose
            table = row_levels(weight, prepared, ~outliers & ~zeros, most - holds.long(), most)
            table[holds & (table != 0).all(dim=1), -1] = 0  # a repetition of the one before
        table = table.to(torch.bfloat16).float()
        return CodebookLinear.from_weight(table, weight, outliers)

    def outliers(
        self,
        weight: Float[Tensor, "out in"],
        fisher: Float[Tensor, "out in"],
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Bool[Tensor, "out in"]:
        """The weights to keep apart: the largest, then the most sensitive of the others; the last of equals first."""
        large, sensitive = self._kept_apart(weight.numel())
        chosen = _highest(weight.abs().flatten(), large)
        rest = fisher.flatten() if removed is None else fisher.masked_fill(removed, -1).flatten()
        rest = rest.masked_fill(chosen, -2)
        return (chosen | _highest(rest, sensitive)).view_as(weight)

    def _kept_apart(self, size: int) -> tuple[int, int]:
        """Numbers of weights of a layer that stay apart as outliers and as sensitive ones."""
        return counts.drop_count(self.outlier_fraction, size), counts.drop_count(self.sensitive_fraction, size)


def _highest(score: Float[Tensor, " weight"], count: int) -> Bool[Tensor, " weight"]:
    lost = torch.tensor([score.numel() - count], device=score.device)
    return masks.keep_highest(score[None], lost)[0]
