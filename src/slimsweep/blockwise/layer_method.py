"""Protocols between the walk over blocks and a technique: what it is asked, and what it gives back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slimsweep.linear.base import LinearForm


@dataclass(frozen=True)
class Pruned:
    """A weight after a pruning stage, or the layer that stores it packed, and which of its entries stay."""

    weight: Float[Tensor, "out in"] | LinearForm
    keep: Bool[Tensor, "out in"]
    """False where this stage or an earlier one removed the weight."""


@runtime_checkable
class LayerMethod(Protocol):
    """Interface of a technique to the walk over blocks; tensors in, tensors out."""

    inputs: str
    """`compressed`: each block sees outputs of the compressed blocks before it; `dense`: of the dense; `sequential`:
    each layer sees outputs of all compressed layers before it, those of its own block among them."""

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any,
        generator: torch.Generator | None,
        removed: Bool[Tensor, "out in"] | None,
    ) -> Pruned | LinearForm | Float[Tensor, "out in"]:
        """The pruned weight, or the form that stores it, from an fp32 weight that must not be written to.

        The weight itself leaves the layer as it is.
        """

    def notes(self, prepared: Any) -> dict[str, Any]:
        """Notes on a layer for the report."""


class InputStatistic(ABC):
    """Mix-in of a method that looks at calibration inputs. Without it the walk runs no forward."""

    statistic_name: ClassVar[str] = ""
    """Name of what `statistic` computes; equal names mean equal values, which may be shared. Empty: not shared."""

    @property
    def looks(self) -> bool:
        """Whether it looks at inputs with the knobs it has; else it is treated like a method without the mix-in."""
        return True

    @abstractmethod
    def statistic(self, inputs: Float[Tensor, "token in"]) -> Tensor:
        """Statistic of a layer's inputs; additive, the walk sums it over sequences."""

    def prepare(self, summed: Tensor) -> Any:
        """Prepare the summed statistic once for all layers that share an input; `compress_layer` is given it."""
        return summed


def looks_at_inputs(method: Any) -> bool:
    """Whether a method asks the walk for statistics of calibration inputs."""
    return isinstance(method, InputStatistic) and method.looks


@runtime_checkable
class StoredFactors(Protocol):
    """Interface of a method whose prepared factors are shared by jobs too, through a file."""

    prepared_name: str
    """Name of what `prepare` computes; equal names mean equal values of equal sums."""

    def to_tensors(self, prepared: Any) -> dict[str, Tensor]:
        """Tensors of what `prepare` computed, for a file."""

    def from_tensors(self, tensors: dict[str, Tensor]) -> Any:
        """Read what `prepare` computed from `to_tensors`."""
