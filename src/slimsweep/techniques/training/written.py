"""Training data that a teacher writes: targets of sources, or continuations of prompts."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimsweep.checks import choice_faults, whole_number_faults
from slimsweep.data.training import TrainingSet, padded_batch
from slimsweep.models.batches import Batch, to_device
from slimsweep.models.language_model import LanguageModel
from slimsweep.progress import tracked
from slimsweep.techniques.training.generation import (
    Chooser,
    continued,
    end_ids,
    left_padded,
    most_likely,
    padding_of,
    prompts_of,
    write,
)

TEXTS = ("data", "teacher")
DECODINGS = ("greedy", "sample")
SEQUENCES_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Knobs of a stage whose training data may be written by its teacher. Source: sequence-level distillation of
    arXiv:1606.07947, sec. 3.2, with greedy decoding in place of a beam."""

    texts: str = "data"
    """Texts that the student learns to write: those of the `data`, or of the `teacher`; validation keeps the data's."""
    written_sequences: int | None = 2000
    """Training examples that the teacher writes, drawn from the data; further ones are left out. Null: all."""
    prompt_tokens: int = 16
    """Tokens of a window of plain text that the teacher continues; of instructions, it answers the first question."""
    decoding: str = "greedy"
    """Choice of the teacher's tokens: `greedy` takes the most likely one, `sample` draws."""

    def writing_faults(self) -> list[str]:
        """Faults of the knobs."""
        faults = choice_faults("texts", [self.texts], TEXTS)
        faults += whole_number_faults("written_sequences", self.written_sequences, is_optional=True)
        faults += whole_number_faults("prompt_tokens", self.prompt_tokens)
        return faults + choice_faults("decoding", [self.decoding], DECODINGS)

    def task_faults(self, model: LanguageModel) -> list[str]:
        """Fault of a model that writes nothing."""
        if self.texts == "data" or model.task.generates:
            return []
        return [f"texts=teacher lets a teacher write, and one of model.task={model.task.name} does not: texts=data"]


def written_set(
    teacher: LanguageModel, data: TrainingSet, settings: Writing, generator: torch.Generator
) -> tuple[TrainingSet, dict[str, Any]]:
    """Training set whose training examples are the teacher's, and notes on them.

    Texts are no longer than the longest of the data. A text that reaches that length is cut and has no end.
    """
    chosen = range(len(data.training))
    if settings.written_sequences is not None and settings.written_sequences < len(chosen):
        order = torch.randperm(len(chosen), generator=generator).tolist()
        chosen = sorted(order[: settings.written_sequences])
    examples = [data.training[index] for index in chosen]
    choose = most_likely if settings.decoding == "greedy" else functools.partial(_drawn, generator=generator)
    make = _answers if teacher.family.encoder is not None else _continuations
    written, rows = make(teacher, dataclasses.replace(data, training=examples), choose, settings.prompt_tokens)
    ends = end_ids(teacher)
    notes = {
        "sequences": len(rows),
        "tokens": sum(map(len, rows)),
        "without_end": sum(row[-1] not in ends for row in rows) / len(rows),
    }
    return written, notes


def _drawn(predicted: list[Tensor], generator: torch.Generator) -> Tensor:
    chances = predicted[0].exp()
    return torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0].to(chances.device)


def _answers(teacher: LanguageModel, data: TrainingSet, choose: Chooser, prompt_tokens: int) -> tuple:
    """Pairs with the targets that an encoder-decoder writes for their sources."""
    longest = max(len(tokens.target) for _, tokens in data.training)

    def answer(batch: Batch) -> list[list[int]]:
        sources = {name: batch[name] for name in ("input_ids", "attention_mask")}
        start = {"decoder_input_ids": batch["decoder_input_ids"][:, :1]}
        return write([teacher], to_device(sources | start, teacher.compute_device), choose, longest).rows()

    rows = _rows(data, answer)
    training = [
        (pair, dataclasses.replace(tokens, target=row)) for (pair, tokens), row in zip(data.training, rows, strict=True)
    ]
    return dataclasses.replace(data, training=training), rows


def _continuations(teacher: LanguageModel, data: TrainingSet, choose: Chooser, prompt_tokens: int) -> tuple:
    """Prompts with what a causal model writes after them; only that is predicted.

    The validation examples stay as they are, in the same form.
    """
    padding = padding_of(teacher)
    known = [_example(data, example) for example in data.training]
    prompts = [prompts_of(padded_batch([example], padding), prompt_tokens)[0] for example in known]
    longest = max(len(example["input_ids"]) for example in known)
    # A prompt that fills a window is still followed by one token.
    room = max(1, *(len(one["input_ids"]) - len(prompt) for one, prompt in zip(known, prompts, strict=True)))

    def go_on(batch: Batch) -> list[list[int]]:
        read = prompts_of(batch, prompt_tokens)
        rows = write([teacher], to_device(left_padded(read, padding), teacher.compute_device), choose, room).rows()
        return [row[: max(1, longest - len(prompt))] for prompt, row in zip(read, rows, strict=True)]

    rows = _rows(data, go_on)
    training = [continued(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
    validation = [_example(data, example) for example in data.validation]
    return TrainingSet(training, validation, functools.partial(padded_batch, padding=padding), data.origin), rows


def _rows(data: TrainingSet, make: Callable[[Batch], list[list[int]]]) -> list[list[int]]:
    """Written tokens of all training examples, some examples at a time."""
    rows: list[list[int]] = []
    for _, start in tracked(range(0, len(data.training), SEQUENCES_AT_ONCE), "teacher writes: batch"):
        rows += make(data.collate(data.training[start : start + SEQUENCES_AT_ONCE]))
    return rows


def _example(data: TrainingSet, example: Any) -> dict[str, list[int]]:
    """Tokens and labels of one example of any causal data."""
    batch = data.collate([example])
    return {name: batch[name][0].tolist() for name in ("input_ids", "labels")}
