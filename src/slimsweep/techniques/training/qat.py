"""Train weights for the uniform grid that they are then stored on (quantization-aware training)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from slimsweep.blockwise.layerwise import LayerReport, replace_weight
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import set_layer
from slimsweep.linear.fake_quantized import FakeQuantizedLinear
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.base import Requirements, StageReport, Technique
from slimsweep.techniques.layerwise import report_of
from slimsweep.techniques.quantization.base import UniformGrid
from slimsweep.techniques.training.base import TrainedLayers, free_parameters, peak_bytes
from slimsweep.techniques.training.distillation import Distillation, Losses
from slimsweep.techniques.training.loop import train
from slimsweep.techniques.training.objective import Objective, TaskLoss

TO_TEACHER = Losses({"soft": 1.0}, temperature=1.0, skew=0.1, beta=0.5, hidden="cosine")
"""Forward KL alone, as the logit distillation of arXiv:2305.17888 (LLM-QAT) has it."""


@dataclass(frozen=True, kw_only=True)
class QAT(UniformGrid, TrainedLayers, Technique):
    """Train all parameters while the targeted layers compute with rounded weights, then pack these.

    Grids are fitted at each forward as RTN fits them. Gradients pass the rounding unchanged, but a weight that its grid
    clips (beyond the last level) gets none. The validation loss that chooses the best step is thus that of the packed
    model.
    Source: straight-through estimator, arXiv:1308.3432, sec. 3; fake quantization, arXiv:1712.05877, sec. 3.
    Departures: only weights are rounded; ranges are those of the weights now, no moving averages.
    """

    teacher: str | None = None
    """`base`: learn the predictions of the base model; null: the labels of the data."""

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values()
        if self.teacher not in (None, "base"):
            faults.append(f"teacher={self.teacher!r}: give base, or null for the labels of the data")
        return faults

    @property
    def requirements(self) -> Requirements:
        return Requirements(data=True, gradients=True, seed=True, teacher=self.teacher)

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        return TaskLoss() if self.teacher is None else Distillation(TO_TEACHER, model, context.teacher())

    def training_bytes(self, skeleton: Skeleton, batch: Batch) -> int:
        """That of training all parameters, with a rounded copy of each weight and, with a teacher, its weights."""
        model = skeleton.copy()
        weights = sum(parameter.nbytes for parameter in model.module.parameters())
        needed = peak_bytes(model, free_parameters(model), batch, self.checkpoint_blocks) + weights
        return needed if self.teacher is None else needed + weights

    def walk(self, model: LanguageModel, context: StageContext) -> StageReport:
        objective = self.objective(model, context)
        with self.fake_quantized(model) as layers:
            training = train(model, free_parameters(model), objective, self, context)
        report = report_of(pack(model, layers))
        report.notes["training"] = training.plain()
        return report

    @contextmanager
    def fake_quantized(self, model: LanguageModel) -> Iterator[dict[str, FakeQuantizedLinear]]:
        """Layers that round their weights, in the places of the targeted ones, which come back."""
        before = self.targets(model)
        layers = {
            name: FakeQuantizedLinear(layer, self.bits, self.group_size, self.grid, self.preserve_sparsity)
            for name, layer in before.items()
        }
        try:
            for name, layer in layers.items():
                set_layer(model.module, name, layer)
            yield layers
        finally:
            for name, layer in before.items():
                set_layer(model.module, name, layer)


@torch.no_grad()
def pack(model: LanguageModel, layers: dict[str, FakeQuantizedLinear]) -> list[LayerReport]:
    """Store what fake-quantized layers compute with, in the places of the layers of these names."""
    return [replace_weight(model, name, layer.packed(), wanted=layer.weight.detach()) for name, layer in layers.items()]
