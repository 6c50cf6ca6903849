"""Generated additions of several numbers, with every step worked out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from slimsweep.checks import refuse, whole_number_faults
from slimsweep.data.problems import Problem, ProblemData


@dataclass(frozen=True, kw_only=True)
class Arithmetic(ProblemData):
    """Distinct sums such as 3+5+9, drawn with a seed of their own. The steps add one number at a time."""

    choice: ClassVar[str] = "arithmetic"

    terms: int = 3
    """Numbers that are added."""
    digits: int = 2
    """Most digits of a number."""
    modulus: int | None = None
    """Each sum is taken modulo this, and numbers are below it; null takes whole sums."""
    problem_count: int = 2000
    """Distinct problems, the held-out ones included."""
    problem_seed: int = 0
    """Draws the problems. The seed of an experiment leaves them as they are."""

    def __post_init__(self) -> None:
        faults = self.bad_values() + whole_number_faults("data.terms", self.terms, least=2)
        faults += whole_number_faults("data.digits", self.digits)
        faults += whole_number_faults("data.modulus", self.modulus, least=2, is_optional=True)
        faults += whole_number_faults("data.problem_count", self.problem_count, least=2)
        faults += whole_number_faults("data.problem_seed", self.problem_seed, least=0)
        if not faults and self.problem_count > self.possible:
            faults.append(
                f"data.problem_count={self.problem_count}: there are {self.possible} sums of {self.terms} numbers "
                f"below {self._limit}: give at most {self.possible}, or more terms or digits"
            )
        refuse(faults)

    @property
    def possible(self) -> int:
        """Number of different problems."""
        return self._limit**self.terms

    @property
    def _limit(self) -> int:
        """Numbers are below this."""
        return min(10**self.digits, self.modulus or 10**self.digits)

    @property
    def origin(self) -> str:
        return f"generated sums of {self.terms} numbers below {self._limit}"

    def problems(self, tokenizer: Any = None) -> list[Problem]:
        drawn = random.Random(self.problem_seed).sample(range(self.possible), self.problem_count)
        return [worked_sum(self._numbers(one), self.modulus) for one in drawn]

    def _numbers(self, code: int) -> list[int]:
        """Numbers of a problem: the digits of its code in a base of the limit."""
        return [code // self._limit**place % self._limit for place in reversed(range(self.terms))]


def worked_sum(numbers: Sequence[int], modulus: int | None = None) -> Problem:
    """A sum with its steps: of 3, 5 and 9 they are 3+5=8 8+9=17."""
    total, steps = numbers[0], []
    for number in numbers[1:]:
        following = total + number if modulus is None else (total + number) % modulus
        steps.append(f"{total}+{number}={following}")
        total = following
    return Problem(f"Q: {'+'.join(map(str, numbers))}=\n", " ".join(steps), str(total))
