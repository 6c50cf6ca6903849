"""Tasks of a model: the class of transformers that does it, and its loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from slimsweep.models.batches import IGNORED, Batch, sequence_count, text_batch


@dataclass(frozen=True)
class Task(ABC):
    """Task of a model. Code asks it, and never the class name of a model."""

    name: str
    """Word in configs."""
    auto_class: str
    """Name of the transformers class that loads models for this task."""
    architectures: str
    """Name of the transformers table of model classes by `model_type`."""
    generates: bool
    """Whether the model generates text token by token."""

    def architecture(self, model_type: str) -> str | None:
        """Name of the model class for a `model_type`; None where transformers has none for this task."""
        from transformers.models.auto import modeling_auto

        name = getattr(modeling_auto, self.architectures).get(model_type)
        return name[0] if isinstance(name, tuple) else name

    def knows(self, architecture: str) -> bool:
        """Whether a model class of this name does this task."""
        from transformers.models.auto import modeling_auto

        names = getattr(modeling_auto, self.architectures).values()
        return any(architecture in (name if isinstance(name, tuple) else (name,)) for name in names)

    @abstractmethod
    def aligned(
        self, logits: Float[Tensor, "sequence *place vocabulary"], batch: Batch
    ) -> tuple[Float[Tensor, "sequence *prediction vocabulary"], Int[Tensor, " sequence *prediction"]]:
        """Logits that predict something, and what is to be predicted; IGNORED where a place predicts nothing."""

    def forward(self, module: nn.Module, batch: Batch, **wanted: Any) -> Any:
        """Output of a forward on a batch; `wanted` are further arguments, such as `output_hidden_states`."""
        return module(**inputs_of(batch), use_cache=False, **wanted)

    def loss(self, module: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats over everything that the batch predicts; padding predicts nothing.

        Training has `mean_nll` in its place, which differs in the last bits; scores of pruners rest on this one.
        """
        logits, labels = self.aligned(self.forward(module, batch).logits, batch)
        return cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED)

    @abstractmethod
    def predictions(self, batch: Batch) -> int:
        """Number of predictions that `loss` is the mean of."""

    def zeros(self, tokens: int) -> Batch:
        """One sequence of zeros, for measuring what does not depend on values."""
        return text_batch(torch.zeros(1, tokens, dtype=torch.long))

    def prefill_inputs(self, batch: Batch) -> dict[str, Any]:
        """Arguments of the forward that reads a prompt and predicts the first token after it."""
        return inputs_of(batch) | {"use_cache": True, "logits_to_keep": 1}

    def step_inputs(self, output: Any, token: Int[Tensor, "sequence 1"]) -> dict[str, Any]:
        """Arguments of the forward that predicts the next token, from the output of the forward before it."""
        return {"input_ids": token, "past_key_values": output.past_key_values, "use_cache": True}


class CausalLM(Task):
    """Predict each token of a text from those before it."""

    def aligned(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return logits[:, :-1], _next_tokens(batch)

    def predictions(self, batch: Batch) -> int:
        return int((_next_tokens(batch) != IGNORED).sum())


class Seq2SeqLM(Task):
    """Predict each token of a target from a source text and the target's tokens before it."""

    def aligned(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return logits, batch["labels"]

    def predictions(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def zeros(self, tokens: int) -> Batch:
        """A source and a target of zeros, of equal length."""
        batch = super().zeros(tokens)
        return batch | {"decoder_input_ids": batch["input_ids"]}

    def prefill_inputs(self, batch: Batch) -> dict[str, Any]:
        """Arguments of the forward that reads a source and the first token of the target."""
        return inputs_of(batch) | {"decoder_input_ids": batch["decoder_input_ids"][:, :1], "use_cache": True}

    def step_inputs(self, output: Any, token: Int[Tensor, "sequence 1"]) -> dict[str, Any]:
        source = (output.encoder_last_hidden_state,)
        cache = output.past_key_values
        return {"encoder_outputs": source, "decoder_input_ids": token, "past_key_values": cache, "use_cache": True}


class SequenceClassification(Task):
    """Predict one label of a text. Without labels, it is the label that the model finds most likely itself."""

    def aligned(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return logits, batch["labels"] if "labels" in batch else logits.detach().argmax(dim=-1)

    def forward(self, module: nn.Module, batch: Batch, **wanted: Any) -> Any:
        return module(**inputs_of(batch), **wanted)

    def predictions(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum()) if "labels" in batch else sequence_count(batch)

    def prefill_inputs(self, batch: Batch) -> dict[str, Any]:
        """Arguments of a forward; nothing is generated after it."""
        return inputs_of(batch)


def inputs_of(batch: Batch) -> dict[str, Any]:
    """Arguments of a model's forward; labels are none, since the loss is computed here."""
    return {name: values for name, values in batch.items() if name != "labels"}


def _next_tokens(batch: Batch) -> Int[Tensor, "sequence target"]:
    """Token that each place but the last predicts; IGNORED where that token is padding."""
    labels = batch.get("labels", batch["input_ids"])[:, 1:]
    mask = batch.get("attention_mask")
    return labels if mask is None else labels.masked_fill(mask[:, 1:] == 0, IGNORED)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        CausalLM("causal_lm", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", generates=True),
        Seq2SeqLM(
            "seq2seq_lm", "AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", generates=True
        ),
        SequenceClassification(
            "sequence_classification",
            "AutoModelForSequenceClassification",
            "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
            generates=False,
        ),
    )
}
"""Tasks by name."""


def task_of(architecture: str) -> Task:
    """Task of a model class by its name, as a config names it; language models where no table has it."""
    return next((task for task in TASKS.values() if task.knows(architecture)), TASKS["causal_lm"])
