"""AutoRound: learn rounding offsets and clip factors block by block, by signed gradient descent."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from slimsweep.blockwise.activations import Activations
from slimsweep.blockwise.block_trainer import (
    BlockInputs,
    Descent,
    Reconstruction,
    Tensors,
    Trained,
    block_inputs,
    inverse_squares,
    train,
)
from slimsweep.blockwise.fisher import dense_layers
from slimsweep.blockwise.layerwise import LayerReport, replace_weight, targets_by_block
from slimsweep.blockwise.shared_inputs import inputs_clause
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.checks import number_faults, whole_number_faults
from slimsweep.linear.base import compute_dtype, weight_2d
from slimsweep.linear.mask import removed as removed_of
from slimsweep.linear.orientation import is_transposed
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.models.batch_sizes import BATCH_TOKENS
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.finite import refuse_non_finite
from slimsweep.numerics.learned_rounding import Learned, LearnedRounding
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layerwise import report_of
from slimsweep.techniques.quantization.base import UniformGrid

FIELDS = ("offset", "low_clip", "high_clip")


@dataclass(frozen=True, kw_only=True)
class AutoRound(UniformGrid, Technique):
    """SignRound: learn a rounding offset for each weight and two clip factors for each group, block by block.

    Signed gradient descent with a linearly falling rate lets the quantized block reproduce the outputs of the dense
    one. A result is kept only where it has a lower block loss than round to nearest.

    Source: arXiv:2309.05516, eq. 3 to 6 and alg. 1. Departures: the error of each token is divided by the mean
    square of its target. Grids are those of the other quantizers, with scales rounded to their stored dtype. With
    `preserve_sparsity` the offsets of removed weights are not learned. Over all sequences, the best step is compared
    with the last step and with the start.
    """

    version: ClassVar[int] = 2

    steps: int = 200
    """Steps for each block; 0 rounds to nearest."""
    batch_sequences: int = 8
    """Sequences drawn for a step; all of them where there are not so many."""
    learning_rate: float | int | None = None
    """Largest change of an offset or a clip factor in the first step, (0, 1]; null: 1 / steps, so that all steps
    together reach half a level."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + whole_number_faults("steps", self.steps, least=0)
        faults += whole_number_faults("batch_sequences", self.batch_sequences)
        return faults + (
            [] if self.learning_rate is None else number_faults("learning_rate", self.learning_rate, "(0, 1]")
        )

    @property
    def requirements(self) -> Requirements:
        """Text, and one block at a time: its own weights are all that gradients pass."""
        return Requirements(calibration=True, seed=True, whole_model=False)

    def working_bytes(self, shapes: list[tuple[int, int]]) -> int:
        weights = sum(out * width for out, width in shapes)
        kept = 4 * BATCH_TOKENS * sum(out + width for out, width in shapes)  # what a backward reads
        # Weight, offset, its gradient, two copies, and what the fake quantization keeps for its backward.
        return 48 * weights + kept

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        blocks = targets_by_block(model, self.targets(model))
        stop = max(index for index, layers in enumerate(blocks) if layers) + 1
        dense = None
        if self.inputs == "compressed":
            with torch.no_grad():
                dense = Activations(model, context.batches)
        losses: dict[str, dict[str, Any]] = {}

        def treat(visit: Visit) -> list[LayerReport]:
            name, layers = model.block_names[visit.index], blocks[visit.index]
            inputs, targets = _data(model, visit, dense)
            if not layers:
                return []
            refuse_non_finite(inputs.rows(), inputs_clause(layers), "compress less")
            task = Reconstruction(name, visit.block, inputs, targets, inverse_squares(targets))
            trained, roundings = self._learn(task, layers, context.generator(name))
            losses[name] = trained.notes()
            return [_pack(model, layer, roundings[layer], trained.parameters) for layer in layers]

        walk = Walk(title="AutoRound", batch=context.batches, propagation=self.inputs, stop=stop)
        report = report_of(walk.run(model, treat))
        report.notes["block_loss"] = losses
        return report

    def _learn(
        self, task: Reconstruction, layers: dict[str, nn.Module], generator: torch.Generator
    ) -> tuple[Trained, dict[str, LearnedRounding]]:
        """Train the tensors of a block's layers, `LAYER:FIELD` by name."""
        roundings = {
            name: LearnedRounding(
                weight_2d(layer).float(), self.grid, self.bits, self.group_size, self.zeros(removed_of(layer))
            )
            for name, layer in layers.items()
        }

        def changed(values: Tensors) -> Tensors:
            weights = {}
            for name, layer in layers.items():
                weight = roundings[name].fake_quantize(_of_layer(values, name)).to(compute_dtype(layer))
                within = name.removeprefix(f"{task.name}.")
                weights[f"{within}.weight"] = weight.T if is_transposed(layer) else weight
            return weights

        start = {
            f"{name}:{field}": getattr(rounding.start(), field)
            for name, rounding in roundings.items()
            for field in FIELDS
        }
        rate = float(self.learning_rate or 1 / max(1, self.steps))
        descent = Descent.by_sign(self.steps, self.batch_sequences, rate)
        with dense_layers(task.block):
            return train(task, start, changed, descent, generator, _into_bounds), roundings


def _data(model: LanguageModel, visit: Visit, dense: Activations | None) -> tuple[BlockInputs, Tensor]:
    """Inputs of a block, and the dense block's outputs for the dense inputs.

    With compressed inputs, dense activations are kept beside the walk's. Else the dense block advances the walk's here.
    """
    inputs = block_inputs(model, visit.activations, visit.index, is_copied=dense is None)
    if dense is None:
        visit.advance()
        return inputs, visit.activations.hidden
    dense.advance(visit.index)
    return inputs, dense.hidden


def _of_layer(values: Tensors, name: str) -> Learned:
    return Learned(*(values[f"{name}:{field}"] for field in FIELDS))


def _into_bounds(values: Tensors) -> None:
    """Offsets lie in [-0.5, 0.5], clip factors in [0, 1]."""
    for name, tensor in values.items():
        tensor.clamp_(*((-0.5, 0.5) if name.endswith(":offset") else (0, 1)))


def _pack(model: LanguageModel, name: str, rounding: LearnedRounding, values: Tensors) -> LayerReport:
    packed = IntegerLinear.from_codes(*rounding.quantize(_of_layer(values, name)))
    return replace_weight(model, name, packed, wanted=rounding.weight)
