"""Problems with worked solutions from a file, as GSM8K has them: question, and answer ending in `#### number`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.corpora import Corpora
from slimsweep.data.instructions import Turns, read_conversations
from slimsweep.data.problems import MARK, Problem, ProblemData, answer_of, longest_solved, rationale_of
from slimsweep.data.rows import KINDS
from slimsweep.errors import CorpusError

CALCULATIONS = re.compile(r"<<[^>]*>>")
"""GSM8K's notes for a calculator, such as <<48/2=24>>; they are left out."""


@dataclass(frozen=True, kw_only=True)
class ProblemFile(ProblemData):
    """Rows of a question and its solution; longer ones than `tokens` are left out."""

    choice: ClassVar[str] = "problems"

    path: str | None
    """File with the columns question and answer, or others that `data=instructions` reads."""
    tokens: int
    """Longest problem with its solution, in tokens."""

    def __post_init__(self) -> None:
        refuse([*self.bad_values(), *whole_number_faults("data.tokens", self.tokens, least=2)])

    def faults(self, source: Any, corpora: Corpora) -> list[str]:
        if not self.path:
            return [f"data=problems reads a file of yours: add data.path=FILE (.{', .'.join(KINDS[1:])})"]
        return super().faults(source, corpora)

    @property
    def origin(self) -> str:
        return str(self.path)

    def problems(self, tokenizer: Any = None) -> Sequence[Problem]:
        conversations = read_conversations(self.path)
        every = [read_problem(turns, number, self.path) for number, turns in enumerate(conversations, 1)]
        if tokenizer is None:
            return every
        kept = [one for one in every if longest_solved([one], tokenizer) <= self.tokens]
        if len(kept) < 2:
            raise CorpusError(
                f"{self.path}: {len(kept)} of {len(every)} problems have at most data.tokens={self.tokens} tokens with "
                "their solution, and two are needed, one to validate on: set a larger data.tokens"
            )
        return kept


def read_problem(turns: Turns, number: int, path: str | None) -> Problem:
    """Problem of a row.

    Raises:
        CorpusError: no marked number, or more than one question.
    """
    asked = [text for role, text in turns if role == "user"]
    solution = CALCULATIONS.sub("", turns[-1][1])
    answer = answer_of(solution) if MARK in solution else None
    if answer is None or len(asked) != 1:
        raise CorpusError(
            f"{path}: row {number} is no problem: needed are one question and a solution that ends in "
            f"'{MARK} NUMBER', as GSM8K has it"
        )
    return Problem(f"Q: {asked[0]}\n", rationale_of(solution), answer.replace(",", ""))
