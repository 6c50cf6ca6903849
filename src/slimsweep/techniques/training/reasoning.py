"""Objectives of distilled reasoning, and the texts that teacher and student are given."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.data.problems import (
    Problem,
    ended,
    is_right,
    labelled,
    opening,
    rationale_of,
    text_ids,
)
from slimsweep.data.training import TrainingSet, padded_batch
from slimsweep.models.batches import IGNORED, Batch, padding_id
from slimsweep.models.generation import BLANK_LINE
from slimsweep.models.language_model import LanguageModel
from slimsweep.numerics.divergences import forward_kl
from slimsweep.numerics.log_likelihood import mean_nll
from slimsweep.techniques.training.objective import Objective

RATIONALE, ANSWER = "[rationale] ", "[answer] "
"""Prefixes that tell a student which of its two tasks a prompt belongs to."""


@dataclass(frozen=True)
class SolvedProblems(TrainingSet):
    """Problems with the steps that a teacher wrote, and the worked examples that it saw."""

    shots: Sequence[Problem] = ()


def shots_ids(shots: Sequence[Problem], tokenizer: Any) -> list[int]:
    """Token ids of worked examples before a prompt, each with a blank line behind it."""
    pieces = (piece for one in shots for piece in (one.prompt, one.solution + BLANK_LINE))
    return [token_id for piece in pieces for token_id in text_ids(piece, tokenizer)]


def right_solutions(problems: Sequence[Problem], texts: Sequence[str]) -> list[Problem]:
    """Problems whose written solution has steps and ends in the right answer, with these steps.

    Args:
        texts: what a teacher wrote for each problem.
    """
    return [
        Problem(problem.prompt, rationale_of(text), problem.answer)
        for problem, text in zip(problems, texts, strict=True)
        if rationale_of(text) and is_right(text, problem.answer)
    ]


def two_task_batch(problems: Sequence[Problem], tokenizer: Any, with_rationales: bool = True) -> Batch:
    """One row for the answer of each problem, then one row for the steps of each problem."""
    rows = [labelled(ANSWER + one.prompt, ended(one.answer, tokenizer), tokenizer) for one in problems]
    if with_rationales:
        rows += [labelled(RATIONALE + one.prompt, ended(one.rationale, tokenizer), tokenizer) for one in problems]
    return padded_batch(rows, padding_id(tokenizer))


def without_examples(problems: Sequence[Problem], tokenizer: Any) -> Batch:
    """Prompts with their solutions, each ending as the worked examples end, with a blank line."""
    rows = [labelled(one.prompt, text_ids(one.solution + BLANK_LINE, tokenizer), tokenizer) for one in problems]
    return padded_batch(rows, padding_id(tokenizer))


def with_examples(batch: Batch, shots: Sequence[int], start: int) -> Batch:
    """The batch with worked examples before each prompt.

    Args:
        shots: token ids of the examples.
        start: ids of the beginning that each row has; the examples come after them.
    """
    ids = batch["input_ids"]

    def widened(values: Tensor, inserted: Tensor) -> Tensor:
        middle = inserted.to(values).expand(len(values), -1)
        return torch.cat([values[:, :start], middle, values[:, start:]], dim=1)

    longer = {"input_ids": widened(ids, torch.tensor([list(shots)], dtype=ids.dtype))}
    if "attention_mask" in batch:
        longer["attention_mask"] = widened(batch["attention_mask"], torch.ones(1, len(shots)))
    return longer


def task_losses(
    logits: Float[Tensor, "row prediction vocabulary"], labels: Tensor, problems: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy of answers (the first rows) and of rationales (the other rows), each over its own tokens."""

    def mean(rows: slice) -> Tensor:
        if not bool((labels[rows] != IGNORED).any()):
            return logits[rows].float().sum() * 0
        return mean_nll(logits[rows], labels[rows], IGNORED)

    return mean(slice(0, problems)), mean(slice(problems, None))


class TwoTasks(Objective):
    """Answer loss + weight x rationale loss. Source: arXiv:2305.02301, sec. 3.2."""

    def __init__(self, rationale_weight: int | float):
        self.rationale_weight = rationale_weight

    def loss(self, model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
        logits, labels = model.task.aligned(model.task.forward(model.module, batch).logits, batch)
        rows = len(labels) // 2 if self.rationale_weight else len(labels)
        answer, rationale = task_losses(logits, labels, rows)
        return answer + self.rationale_weight * rationale


class InContext(Objective):
    """Forward KL, at the tokens of the solution, from the teacher that sees worked examples to the student without.

    Source: the soft loss of arXiv:2212.10670, with a student that has no context, as in arXiv:2209.15189. The examples
    are the same for all prompts.
    """

    def __init__(self, teacher: LanguageModel, shots: Sequence[Problem]):
        self.teacher = teacher
        self.teacher.module.requires_grad_(False).eval()
        self.shots = shots_ids(shots, teacher.tokenizer)
        self.start = len(opening(teacher.tokenizer))

    def loss(self, model: LanguageModel, batch: Batch) -> Float[Tensor, ""]:
        logits, labels = model.task.aligned(model.task.forward(model.module, batch).logits, batch)
        with torch.no_grad():
            longer = with_examples(batch, self.shots, self.start)
            theirs = self.teacher.task.forward(self.teacher.module, longer).logits[:, len(self.shots) : -1]
        words = min(logits.shape[-1], theirs.shape[-1])  # tables may be padded to different heights
        return forward_kl(logits[..., :words], theirs[..., :words], labels != IGNORED)


def collate_of(is_in_context: bool, with_rationales: bool, tokenizer: Any) -> Any:
    """Function that makes a batch of solved problems."""
    if is_in_context:
        return functools.partial(without_examples, tokenizer=tokenizer)
    return functools.partial(two_task_batch, tokenizer=tokenizer, with_rationales=with_rationales)
