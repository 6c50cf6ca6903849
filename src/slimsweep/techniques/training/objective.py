"""Objective of training: the loss that the loop lowers."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.models.batches import IGNORED, Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.log_likelihood import mean_nll


class Objective(ABC):
    """A loss of a model on a batch."""

    modules: nn.Module | None = None
    """Further modules to train, such as projections; they are no part of the model."""

    @abstractmethod
    def loss(self, model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
        """Mean over everything that the batch predicts, in nats; padding predicts nothing."""


class TaskLoss(Objective):
    """Cross-entropy of the model's task with the labels of the data."""

    def loss(self, model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
        logits, labels = model.task.aligned(model.task.forward(model.module, batch).logits, batch)
        return mean_nll(logits, labels, IGNORED)
