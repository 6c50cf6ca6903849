"""Problems with worked solutions: their text, their tokens, and the comparison of a written answer with the key."""

import functools
import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from slimsweep.data.corpora import Corpora
from slimsweep.data.training import TrainingData, TrainingSet, padded_batch, split_by_content, task_faults
from slimsweep.data.unknown_tokens import texts_fault
from slimsweep.errors import CorpusError
from slimsweep.models.batch_sizes import longest_context
from slimsweep.models.batches import IGNORED, Batch, padding_id

MARK = "####"
"""Mark before the final answer of a solution, as GSM8K has it."""
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Problem:
    """A question with its worked steps and its final answer."""

    prompt: str
    """Question as a model reads it, its line end included."""
    rationale: str
    """Worked steps; empty where the source has none."""
    answer: str

    @property
    def solution(self) -> str:
        """Worked steps and the marked answer."""
        return f"{self.rationale}\n{MARK} {self.answer}" if self.rationale else f"{MARK} {self.answer}"


def answer_of(text: str) -> str | None:
    """Final answer of a written solution: the number after the last mark, else the last number; None without any."""
    marked = text.rpartition(MARK)
    numbers = NUMBER.findall(marked[2])
    if not numbers:
        return None
    return numbers[0] if marked[1] else numbers[-1]


def rationale_of(text: str) -> str:
    """Worked steps of a written solution: everything before the mark."""
    return text.partition(MARK)[0].strip()


def is_right(text: str, answer: str) -> bool:
    """Whether the final answer of a text is the number of the key; 1,000 and 1000.0 are equal."""
    given = answer_of(text)
    return given is not None and _number(given) == _number(answer)


def answer_accuracy(texts: Sequence[str], problems: Sequence[Problem]) -> float:
    """Share of texts whose final answer is right.

    Args:
        texts: one for each problem.
    """
    right = sum(is_right(text, problem.answer) for text, problem in zip(texts, problems, strict=True))
    return right / max(1, len(problems))


def _number(text: str) -> Decimal | str:
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return text


def opening(tokenizer: Any) -> list[int]:
    """Token ids that the tokenizer puts before a text: that of the beginning, or none."""
    first = tokenizer("0", verbose=False)["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text alone."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def labelled(prompt: str, completion: Sequence[int], tokenizer: Any) -> dict[str, list[int]]:
    """Token ids of a prompt and its completion, and labels that are IGNORED within the prompt.

    Prompt and completion are tokenised apart, so that a prompt alone has the same ids.
    """
    before = [*opening(tokenizer), *text_ids(prompt, tokenizer)]
    return {"input_ids": [*before, *completion], "labels": [IGNORED] * len(before) + list(completion)}


def ended(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a completion, with the token that ends it."""
    return [*text_ids(text, tokenizer), tokenizer.eos_token_id]


def solution_batch(problems: Sequence[Problem], tokenizer: Any) -> Batch:
    """Prompts with their solutions; only the solutions are predicted."""
    rows = [labelled(one.prompt, ended(one.solution, tokenizer), tokenizer) for one in problems]
    return padded_batch(rows, padding_id(tokenizer))


def unreadable_fault(texts: Iterable[str], tokenizer: Any, source: Any) -> str | None:
    """Sentence on the first text that the tokenizer does not give back, or that the model cannot embed."""
    texts = list(texts)
    for text in texts:
        ids = text_ids(text, tokenizer)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            return (
                f"the tokenizer of model {source.name} has no token for a part of {text!r}: choose a model whose "
                "tokenizer knows digits and signs, or another text"
            )
        if "".join(tokenizer.decode(ids).split()) != "".join(text.split()):
            return f"the tokenizer of model {source.name} reads {text!r} as {tokenizer.decode(ids)!r}: choose another"
    return texts_fault("a problem", texts, tokenizer, source.config().get_text_config().vocab_size)


@dataclass(frozen=True, kw_only=True)
class ProblemData(TrainingData):
    """Problems with worked solutions to train language models on. One in twenty is held out."""

    choice: ClassVar[str]
    """Word in `data=`."""

    @abstractmethod
    def problems(self, tokenizer: Any = None) -> Sequence[Problem]:
        """All problems in order; with a tokenizer, without those that are too long.

        Raises:
            CorpusError: they cannot be read, or a row has no answer.
        """

    @property
    @abstractmethod
    def origin(self) -> str:
        """Place that the problems come from."""

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if faults := task_faults(source, "causal_lm", self.choice, "set data=pairs or data=rows"):
            return faults
        tokenizer = source.tokenizer()
        if tokenizer.eos_token_id is None:
            return [f"the tokenizer of model {source.name} has no eos_token, with which a written solution ends"]
        try:
            problems = self.problems(tokenizer)
        except CorpusError as error:
            return [str(error)]
        if len(problems) < 2:
            return [f"{self.origin}: {len(problems)} problems, and two are needed, one to validate on"]
        texts = (text for one in problems for text in (one.prompt, one.solution))
        if fault := unreadable_fault(texts, tokenizer, source):
            return [fault]
        longest, most = longest_context(source.config()), longest_solved(problems, tokenizer)
        if longest is not None and most > longest:
            return [
                f"{self.origin}: a problem with its solution has {most} tokens, but model {source.name} takes "
                f"{longest}: choose shorter problems"
            ]
        return []

    def digest(self, corpora: Corpora) -> str:
        content = json.dumps([(one.prompt, one.rationale, one.answer) for one in self.problems()])
        return hashlib.sha256(content.encode()).hexdigest()

    def texts(self, corpora: Corpora) -> Iterable[str]:
        return (text for one in self.problems() for text in (one.prompt, one.solution))

    def examples(self, source: Any, corpora: Corpora) -> TrainingSet:
        tokenizer = source.tokenizer()
        training, validation = split_by_content(
            self.problems(tokenizer), lambda one: one.prompt.encode(), self.validation
        )
        return TrainingSet(training, validation, functools.partial(solution_batch, tokenizer=tokenizer), self.origin)


def longest_solved(problems: Iterable[Problem], tokenizer: Any) -> int:
    """Tokens of the longest problem with its solution."""
    return max(len(labelled(one.prompt, ended(one.solution, tokenizer), tokenizer)["input_ids"]) for one in problems)
