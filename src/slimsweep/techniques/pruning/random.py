"""Remove weights by chance: the control that every other technique must beat."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.blockwise.layer_method import Pruned
from slimsweep.numerics import masks
from slimsweep.techniques.base import Requirements
from slimsweep.techniques.pruning.base import Pruner


@dataclass(frozen=True, kw_only=True)
class Random(Pruner):
    """Prune weights drawn with the seed, each layer's draw its own and independent of the order of layers."""

    version: ClassVar[int] = 2

    @property
    def requirements(self) -> Requirements:
        return dataclasses.replace(super().requirements, seed=True)

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any = None,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> Pruned:
        score = torch.rand(weight.shape, generator=generator)  # on the host, so that a GPU draws the same
        keep = self.keep(score.to(weight.device), removed)
        return Pruned(masks.remove(weight, keep), keep)
