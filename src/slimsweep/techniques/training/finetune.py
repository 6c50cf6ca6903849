"""Train all weights on the labels of the data."""

from dataclasses import dataclass

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.models.language_model import LanguageModel
from slimsweep.techniques.training.base import Training
from slimsweep.techniques.training.objective import Objective, TaskLoss


@dataclass(frozen=True, kw_only=True)
class Finetune(Training):
    """Minimise the cross-entropy of the model's task: next tokens, a target text, or a label.

    At the beginning of a chain it makes the base that the other stages are compared with. After pruning, removed
    weights stay zero.
    """

    makes_base = True

    def objective(self, model: LanguageModel, context: StageContext) -> Objective:
        return TaskLoss()
