"""Base of training data: examples of a task, those held out for validation, and the batches made of them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from slimsweep.checks import whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.errors import CorpusError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import IGNORED, Batch

VALIDATION_PART = 20
"""One example in so many is held out for validation, by the digest of its content."""

MEASURED_EXAMPLES = 2000
"""Examples that are looked at for the longest ones."""


@dataclass(frozen=True)
class TrainingSet:
    """Examples of a training stage, as the training loop takes them."""

    training: Sequence[Any]
    validation: Sequence[Any]
    collate: Callable[[Sequence[Any]], Batch]
    """Makes one padded batch of some examples."""
    origin: str
    """Place that the examples were read from."""

    def longest(self, count: int) -> list[Any]:
        """So many training examples that take the most memory, of the first MEASURED_EXAMPLES."""
        some = self.training[:MEASURED_EXAMPLES]
        return sorted(some, key=lambda one: -self.collate([one])["input_ids"].shape[1])[:count]


@dataclass(frozen=True, kw_only=True)
class TrainingData(ABC):
    """Data of the stages of a chain that train."""

    validation: int = 32
    """Largest number of examples that the validation loss is measured on."""

    def bad_values(self) -> list[str]:
        """Every field that holds what is not allowed."""
        return whole_number_faults("data.validation", self.validation)

    @abstractmethod
    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        """Faults of model, tokenizer, columns or lengths that keep examples from being made. Reads no weights."""

    @abstractmethod
    def digest(self, corpora: Corpora) -> str:
        """SHA-256 of all texts and labels; part of a key."""

    @abstractmethod
    def examples(self, source: Any, corpora: Corpora) -> TrainingSet:
        """All examples, split by their content.

        Raises:
            CorpusError: the data cannot be read, or is too little.
        """

    @abstractmethod
    def texts(self, corpora: Corpora) -> Iterable[str]:
        """Texts that are trained on, to be compared with those that are measured on."""


def split_by_content(
    examples: Sequence[Any], content: Callable[[Any], bytes], most: int
) -> tuple[list[Any], list[Any]]:
    """Training and validation examples: equal ones stay on one side, in any order of the file.

    Where no digest chooses an example for validation, the last one is taken.

    Raises:
        CorpusError: nothing would be left to train on.

    Args:
        content: of an example, as bytes.
        most: validation examples; further ones are left out of both sides.
    """
    held_out = [_is_held_out(content(example)) for example in examples]
    if not any(held_out) and len(examples) > 1:
        last = content(examples[-1])
        held_out = [content(example) == last for example in examples]
    if all(held_out):  # all equal, or one alone
        raise CorpusError(
            f"of {len(examples)} examples none is left to train on: give at least two that differ, one to validate on"
        )
    training = [example for example, is_out in zip(examples, held_out, strict=True) if not is_out]
    return training, [example for example, is_out in zip(examples, held_out, strict=True) if is_out][:most]


def _is_held_out(content: bytes) -> bool:
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) % VALIDATION_PART == 0


def token_bytes(token_ids: Sequence[int]) -> bytes:
    """Token ids as bytes, for digests."""
    return torch.tensor(list(token_ids), dtype=torch.long).numpy().tobytes()


def length_faults(source: Any, name: str, tokens: int) -> list[str]:
    """Fault of sequences that are longer than the model takes."""
    longest = longest_context(source.config())
    if longest is None or tokens <= longest:
        return []
    return [f"{name}={tokens}, but model {source.name} takes {longest} tokens: set {name}={longest}"]


def task_faults(source: Any, task: str, choice: str, instead: str) -> list[str]:
    """Fault of data of one task for a model of another one, or of a model without a tokenizer."""
    if source.task != task:
        return [
            f"data={choice} is for models of model.task={task}, and model {source.name} has {source.task}: {instead}"
        ]
    if source.tokenizer() is None:
        return [f"model {source.name} has no tokenizer, which training data needs"]
    return []


def padded_batch(examples: Sequence[dict[str, Sequence[int]]], padding: int) -> Batch:
    """One batch of token sequences, padded on the right; padding and IGNORED labels predict nothing.

    Args:
        examples: each with `input_ids` and `labels` of equal length.
        padding: token id of padded places.
    """
    ids = [torch.tensor(example["input_ids"], dtype=torch.long) for example in examples]
    labels = [torch.tensor(example["labels"], dtype=torch.long) for example in examples]
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
    lengths = torch.tensor([len(one) for one in ids])
    if len(set(lengths.tolist())) > 1:
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch
