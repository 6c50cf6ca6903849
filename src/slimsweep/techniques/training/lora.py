"""Train low-rank adapters beside frozen weights, and merge or keep them."""

from dataclasses import dataclass
from typing import ClassVar

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.models.language_model import LanguageModel
from slimsweep.techniques.training.base import Training
from slimsweep.techniques.training.objective import Objective, TaskLoss


@dataclass(frozen=True, kw_only=True)
class LoRA(Training):
    """Low-rank adaptation on the labels of the data. Source: arXiv:2106.09685.

    Departure: the product of the factors is masked where a pruning stage removed weights, in training and in the merge.
    So the merged weights keep their zeros and equal the trained ones.
    """

    needs_rank: ClassVar[bool] = True

    learning_rate: int | float = 5e-4
    rank: int | None = 8

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        return TaskLoss()
