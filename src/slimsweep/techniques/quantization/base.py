"""Bases of quantizers: the plan on shapes alone, reports, and the checks of bits and groups."""

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.checks import choice_faults, flag_faults, is_whole_number
from slimsweep.linear import base as linear
from slimsweep.linear.base import PackedLinear, layer_shape, weight_count
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics.uniform_grid import GRIDS
from slimsweep.techniques.base import StageReport, Technique
from slimsweep.techniques.layer_names import format_layer_names
from slimsweep.techniques.layerwise import Form, LayerTargets, LayerWalk

BITS = (2, 3, 4, 8)
GROUP_SIZE = 64
"""Default of every quantizer with groups, so that two of them compare at equal storage."""


@dataclass(frozen=True, kw_only=True)
class PreservedSparsity(LayerTargets):
    """Mix-in of a technique that can keep removed weights at zero while it rounds the others."""

    preserve_sparsity: bool = True
    """Whether weights that a pruning stage removed stay exact zeros; a zero by value is rounded like any weight."""

    def _bad_values(self) -> list[str]:
        return [*super()._bad_values(), *flag_faults("preserve_sparsity", self.preserve_sparsity)]

    def zeros(self, removed: Bool[Tensor, "out in"] | None) -> Bool[Tensor, "out in"] | None:
        """Weights that must stay exact zeros; None where there is none."""
        return removed if self.preserve_sparsity else None


@dataclass(frozen=True, kw_only=True)
class PackedStorage(PreservedSparsity):
    """Mix-in of a technique that stores every layer in one form. It says in which; the plan is here.

    It may follow any other: weights that are packed already are unpacked and packed anew in its own form.
    """

    @abstractmethod
    def form(self, shape: tuple[int, int]) -> Form:
        """The kind and settings in which a layer of shape (out, in) is stored."""

    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        """Pack the targeted layers."""
        return with_bits(self.walk(model, context), self.targets(model))

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Put empty packed layers in the places of the targeted ones."""
        return with_bits(super().plan(skeleton), self.targets(skeleton))


@dataclass(frozen=True, kw_only=True)
class Quantizer(PackedStorage, LayerWalk, Technique):
    """A technique that stores the weights of each linear layer in few bits, each layer by itself."""

    @abstractmethod
    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        prepared: Any,
        generator: torch.Generator | None = None,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> PackedLinear:
        """The layer that stores an fp32 weight; bias and dtype are set where it is put in place."""


@dataclass(frozen=True, kw_only=True)
class UniformGrid(PackedStorage):
    """Mix-in of a quantizer whose levels are uniform grids. Stands before Quantizer among the bases."""

    bits: int = 4
    """Bits of a code: 2, 3, 4 or 8."""
    group_size: int | None = GROUP_SIZE
    """Neighbouring inputs that share a scale; null: a whole row. Must divide every input width."""
    grid: str = "asymmetric"
    """`symmetric`, `asymmetric` (integer zero-point) or `minimum` (float minimum, as in GGUF's Q4_1)."""

    def _bad_values(self) -> list[str]:
        return [*super()._bad_values(), *grid_faults(self.bits, self.group_size, self.grid)]

    def faults(self, skeleton: LanguageModel) -> list[str]:
        return super().faults(skeleton) or group_faults(self.targets(skeleton), self.group_size)

    def form(self, shape: tuple[int, int]) -> Form:
        return uniform_form(shape, self.bits, self.group_size, self.grid)


def uniform_form(shape: tuple[int, int], bits: int, group_size: int | None, grid: str) -> Form:
    """Storage of a layer of shape (out, in) on uniform grids; a group of a whole row is none."""
    from slimsweep.linear.uniform import IntegerLinear

    group_size = None if group_size == shape[1] else group_size
    return IntegerLinear, {"bits": bits, "group_size": group_size, "grid": grid}


def with_bits(report: StageReport, layers: dict[str, nn.Module]) -> StageReport:
    """The report with a note on the stored bits of the layers as they are now."""
    report.notes["bits_per_weight"] = bits_per_weight(layers.values())
    return report


def grid_faults(bits: Any, group_size: Any, grid: Any) -> list[str]:
    """Faults of the knobs of a uniform grid."""
    faults = choice_faults("bits", [bits], BITS)
    if group_size is not None and not (is_whole_number(group_size) and group_size > 0):
        faults.append(f"group_size={group_size!r}: give a whole number of inputs, or null for one scale a row")
    return faults + choice_faults("grid", [grid], tuple(GRIDS))


def group_faults(layers: dict[str, nn.Module], group_size: int | None, knob: str = "group_size") -> list[str]:
    """Layers whose input width is no multiple of the groups, all of them, with sizes that would fit."""
    if group_size is None:
        return []
    widths = {name: layer_shape(layer)[1] for name, layer in layers.items()}
    odd = {name: width for name, width in widths.items() if width % group_size}
    if not odd:
        return []
    common = math.gcd(*widths.values())
    fitting = [size for size in range(1, common + 1) if common % size == 0]
    nearest = min(fitting, key=lambda size: abs(math.log(size / group_size)))
    return [
        f"{knob}={group_size} does not divide the input width of {format_layer_names(odd)}. The nearest size that "
        f"divides every width is {nearest}: set {knob}={nearest}, or {knob}=null for one scale a row, or exclude these "
        "layers with exclude=[...]."
    ]


def bits_per_weight(layers: Iterable[nn.Module]) -> float:
    """Stored bits of layers for each of their parameters, scales and tables included."""
    total, bits = 0, 0.0
    for layer in layers:
        weights = weight_count(layer)
        bits += weights * linear.bits_per_weight(layer)
        total += weights
    return bits / total
