"""Mixed precision: choose the bits of each layer by its sensitivity, under a budget of average bits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimsweep.blockwise.fisher import fisher_diagonal, replaced
from slimsweep.blockwise.gradients import sequence_losses
from slimsweep.blockwise.layerwise import LayerReport, install_empty, replace_weight, targets_by_block
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.checks import choice_faults, is_whole_number, number_faults
from slimsweep.linear.base import layer_shape, value_bits, weight_2d
from slimsweep.linear.mask import removed as removed_of
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.numerics.bit_allocation import allocate
from slimsweep.numerics.finite import non_finite_error
from slimsweep.numerics.parallel import parallel_map
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layerwise import report_of
from slimsweep.techniques.quantization.base import (
    BITS,
    GROUP_SIZE,
    PreservedSparsity,
    grid_faults,
    group_faults,
    with_bits,
)
from slimsweep.techniques.quantization.rtn import RTN

LEFT = 16
"""The choice of a layer that is left as it is."""
MEASURES = ("fisher", "loss")
PLANNED = "bits of each layer are planned without sensitivities; real weights meet the same budget in another way"


@dataclass(frozen=True, kw_only=True)
class Selective(PreservedSparsity, Technique):
    """Round each layer to nearest, with the bits per layer that have the least total loss within `average_bits`.

    The budget counts code bits, so an average of 4 compares with RTN at 4 bits and the same groups. Scales and
    zero-points come on top, as in RTN; `bits_per_weight` includes them. The choice 16 leaves a layer as it is. Such a
    layer loses nothing and counts with the bits of its own dtype (32 in an fp32 model) or codes.

    The record notes each layer's `sensitivity` at each choice, in nats per token with four digits, and its `bits`.

    Source: the estimate of measure `fisher` is the diagonal second-order term of arXiv:2306.07629, eq. 3, summed over a
        layer. The choice of bits is a multiple-choice knapsack, solved by dynamic programming (see `bit_allocation`).
        It is exact where the layers' sizes share a large enough divisor, else sizes are rounded up.
    """

    version: ClassVar[int] = 2

    average_bits: float | int
    """Most code bits for each targeted weight, on average over the weights. No default."""
    choices: Sequence[int] = (2, 3, 4, 8, LEFT)
    """Bits a layer may get, of 2, 3, 4, 8 and 16; 16 leaves it as it is."""
    group_size: int | None = GROUP_SIZE
    """Neighbouring inputs that share a scale; null: a whole row. Must divide every input width."""
    grid: str = "asymmetric"
    """`symmetric`, `asymmetric` (integer zero-point) or `minimum` (float minimum, as in GGUF's Q4_1)."""
    measure: str = "fisher"
    """Sensitivity: `fisher`, estimated from gradients; `loss`, measured with one layer rounded at a time, slow."""

    def __post_init__(self) -> None:
        given = self.choices
        object.__setattr__(self, "choices", tuple(given) if isinstance(given, Sequence) else (given,))
        super().__post_init__()
        object.__setattr__(self, "choices", tuple(sorted(set(self.choices))))
        object.__setattr__(self, "average_bits", float(self.average_bits))

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        allowed = (*BITS, LEFT)
        bad = [choice for choice in self.choices if not is_whole_number(choice) or choice not in allowed]
        if bad or not any(choice in BITS for choice in self.choices):
            faults.append(f"choices={list(self.choices)}: give some of {list(allowed)}, at least one below {LEFT}")
        average = self.average_bits
        average_faults = number_faults("average_bits", average, "(0, inf)", "such as 4")
        if not average_faults and not bad and self.choices and average < min(self.choices):
            average_faults.append(
                f"average_bits={average:g} is less than the fewest of choices={list(self.choices)}: every layer takes "
                f"at least {min(self.choices)}. Give average_bits of at least that, or add a smaller choice"
            )
        faults += [*average_faults, *choice_faults("measure", [self.measure], MEASURES)]
        return [*faults, *grid_faults(BITS[0], self.group_size, self.grid)]

    @property
    def requirements(self) -> Requirements:
        return Requirements(calibration=True, gradients=self.measure == "fisher")

    def faults(self, skeleton: LanguageModel) -> list[str]:
        if self.measure == "loss" and not skeleton.task.generates:
            return ["measure=loss needs a language model, whose text is its own measure: set measure=fisher"]
        return super().faults(skeleton) or group_faults(self.targets(skeleton), self.group_size)

    def apply(self, model: LanguageModel, context: StageContext) -> StageReport:
        return _with_bits(self.walk(model, context), self.targets(model))

    def plan(self, skeleton: Skeleton) -> StageReport:
        """Install empty layers; each bit is taken to quarter what a weight loses."""
        targets = self.targets(skeleton)
        sizes = {name: math.prod(layer_shape(layer)) for name, layer in targets.items()}
        losses = {name: {bits: size / 4**bits for bits in self._rounded} for name, size in sizes.items()}
        chosen = self._chosen(targets, losses)
        for name, bits in chosen.items():
            if bits != LEFT:
                install_empty(skeleton, name, *self._rounding(bits).form(layer_shape(targets[name])))
        report = super().plan(skeleton)
        report.notes.update(bits=chosen, plan=PLANNED)
        return _with_bits(report, self.targets(skeleton))

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        targets = self.targets(model)
        measured = self._estimated if self.measure == "fisher" else self._measured
        sensitivity = measured(model, targets, context.batches)
        chosen = self._chosen(targets, sensitivity)
        blocks = targets_by_block(model, targets)

        def store(name: str) -> LayerReport:
            table = {str(bits): float(f"{value:.4g}") for bits, value in sensitivity[name].items()}
            return self._store(model, name, chosen[name], {"bits": chosen[name], "sensitivity": table})

        walk = Walk(title=f"{type(self).__name__}, rounding")
        return report_of(walk.run(model, lambda visit: map(store, blocks[visit.index])))

    def compress_layer(
        self,
        weight: Float[Tensor, "out in"],
        bits: int,
        removed: Bool[Tensor, "out in"] | None = None,
    ) -> IntegerLinear:
        """The layer that stores a weight in so many bits."""
        return self._rounding(bits).compress_layer(weight, removed=removed)

    def _rounding(self, bits: int) -> RTN:
        return RTN(bits=bits, group_size=self.group_size, grid=self.grid, preserve_sparsity=self.preserve_sparsity)

    def _store(self, model: LanguageModel, name: str, bits: int, notes: dict[str, Any]) -> LayerReport:
        layer = model.module.get_submodule(name)
        weight = weight_2d(layer)
        if bits == LEFT:
            return LayerReport(name, weight.numel(), weight.numel() - int(weight.count_nonzero()), None, notes)
        return replace_weight(model, name, self.compress_layer(weight.float(), bits, removed=removed_of(layer)), notes)

    @property
    def _rounded(self) -> list[int]:
        """The choices that change a layer."""
        return [bits for bits in self.choices if bits != LEFT]

    def _estimated(
        self, model: LanguageModel, targets: dict[str, nn.Module], batch: Batch
    ) -> dict[str, dict[int, float]]:
        """Half the sum of Fisher information times squared change, of each layer at each choice."""
        fisher = fisher_diagonal(model, list(targets), batch)

        def estimate(name: str) -> dict[int, float]:
            weight, information = weight_2d(targets[name]).float(), fisher.pop(name)
            removed = removed_of(targets[name])
            changes = {
                bits: self.compress_layer(weight, bits, removed=removed).dequantized() - weight
                for bits in self._rounded
            }
            return {bits: float((information * change.square()).sum()) / 2 for bits, change in changes.items()}

        return dict(zip(targets, parallel_map(estimate, targets, model.compute_device), strict=True))

    @torch.no_grad()
    def _measured(
        self, model: LanguageModel, targets: dict[str, nn.Module], batch: Batch
    ) -> dict[str, dict[int, float]]:
        """Rise of the mean loss with one layer rounded, all others as they are."""

        before = _mean_loss(model, batch)
        if not math.isfinite(before):
            subject = f"The loss of the calibration text is {before}, so no layer's part in it can be measured"
            raise non_finite_error(subject, "compress less before")
        blocks = targets_by_block(model, targets)

        def treat(visit: Visit) -> list[tuple[str, dict[int, float]]]:
            losses = {
                name: {bits: self._loss_with(model, name, layer, bits, batch) for bits in self._rounded}
                for name, layer in blocks[visit.index].items()
            }
            return [(name, {bits: loss - before for bits, loss in own.items()}) for name, own in losses.items()]

        return dict(Walk(title=type(self).__name__).run(model, treat))

    def _loss_with(
        self,
        model: LanguageModel,
        name: str,
        layer: nn.Module,
        bits: int,
        batch: Batch,
    ) -> float:
        packed = self.compress_layer(weight_2d(layer).float(), bits, removed=removed_of(layer))
        packed.dtype, packed.bias = model.dtype, layer.bias
        with replaced(model.module, {name: packed}):
            return _mean_loss(model, batch)

    def _chosen(self, targets: dict[str, nn.Module], sensitivity: dict[str, dict[int, float]]) -> dict[str, int]:
        """Bits of each layer that lose least within the budget."""
        sizes = [math.prod(layer_shape(layer)) for layer in targets.values()]
        bits = [[value_bits(layer) if bits == LEFT else bits for bits in self.choices] for layer in targets.values()]
        losses = [[sensitivity[name].get(bits, 0.0) for bits in self.choices] for name in targets]
        picked = allocate(sizes, bits, losses, self.average_bits)
        return {name: self.choices[index] for name, index in zip(targets, picked, strict=True)}


def _with_bits(report: StageReport, layers: dict[str, nn.Module]) -> StageReport:
    """The report with the code bits that the layers have on average, and all that they store for a weight."""
    weights = [math.prod(layer_shape(layer)) for layer in layers.values()]
    coded = sum(count * value_bits(layer) for count, layer in zip(weights, layers.values(), strict=True))
    report.notes["average_bits"] = coded / sum(weights)
    return with_bits(report, layers)


def _mean_loss(model: LanguageModel, batch: Batch) -> float:
    """Mean loss of a prediction on the calibration text, one sequence at a time."""
    losses, counts = sequence_losses(model, batch)
    shares = [count / max(counts) for count in counts]
    return sum(float(one) * share for one, share in zip(losses, shares, strict=True)) / sum(shares)
