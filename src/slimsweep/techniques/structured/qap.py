"""Remove the set of neurons (or heads) whose joint absence moves their layer's output least."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.removal_walk import Choice
from slimsweep.checks import choice_faults, flag_faults, whole_number_faults
from slimsweep.linear.base import weight_2d
from slimsweep.models.anatomy import HEADS, NEURONS, Units
from slimsweep.numerics import pairwise_exchange
from slimsweep.numerics.finite import refuse_non_finite
from slimsweep.techniques.structured.base import BlockwiseTechnique

STARTS = ("greedy", "faq")
PARTS = (HEADS, NEURONS)


@dataclass(frozen=True, kw_only=True)
class Qap(BlockwiseTechnique):
    """Pruning as a quadratic assignment problem: choose the neurons to prune together, not one by one.

    Minimises the sum over removed i, j of (w_i . w_j) E[a_i a_j]. That is the mean squared change of the MLP's output.
    Pairwise exchange improves each start, and the best result is taken. Without `exchanges`, a start stays as it is.

    Source: the objective follows from the output's change; the problem is Koopmans & Beckmann's of 1957.
    """

    looks: ClassVar[bool] = True

    parts: Sequence[str] = (NEURONS,)
    """Kinds of units to remove from each block: neurons, heads, or both, each at the ratio."""
    starts: Sequence[str] = ("greedy",)
    """`greedy`: the lowest diagonal; `faq`: scipy's approximation, for small layers (10 s at 1,536 neurons)."""
    exchanges: bool = True
    """Improve each start by best exchanges."""
    partition: int = pairwise_exchange.PARTITION
    """Units whose exchanges are weighed at once; bounds the time and memory of one exchange in wide layers."""

    def __post_init__(self) -> None:
        for name in ("parts", "starts"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        super().__post_init__()
        object.__setattr__(self, "parts", self.kinds)  # in one order, each once

    def _bad_values(self) -> list[str]:
        faults = super()._bad_values() + choice_faults("parts", self.parts, PARTS)
        faults += choice_faults("starts", self.starts, STARTS)
        faults += whole_number_faults("partition", self.partition, least=2)
        return faults + flag_faults("exchanges", self.exchanges)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in PARTS if kind in self.parts)

    def choose(self, index: int, units: Units, second_moment: Float[Tensor, "in in"] | None) -> Choice:
        count = self.removed_count(units)
        if not count:
            return Choice(())
        weight = weight_2d(units.reader.module).double()
        costs = pairwise_exchange.interaction(weight, second_moment.double(), units.reader.index)
        subject = f"What ranks the {units.kind} of {units.reader.name} is not finite"
        refuse_non_finite(costs, subject, "remove less before")
        return self.solve(costs, count)

    def solve(self, costs: Float[Tensor, "unit unit"], count: int) -> Choice:
        """The units to remove, with greedy's objective and the one reached, as fractions of the whole output's."""
        first = pairwise_exchange.greedy(costs, count)
        candidates = []
        for start in self.starts:
            chosen = first if start == "greedy" else pairwise_exchange.assignment(costs, count, seed=0)
            if self.exchanges:
                candidates.append(pairwise_exchange.best_exchanges(costs, chosen, self.partition))
            else:
                value = pairwise_exchange.objective(costs, chosen)
                candidates.append(pairwise_exchange.Exchanged(chosen, value, 0))
        place = min(range(len(candidates)), key=lambda index: candidates[index].objective)
        best = candidates[place]
        total = float(costs.sum())
        notes: dict[str, Any] = {
            "objective_greedy": pairwise_exchange.objective(costs, first) / total if total else 0.0,
            "objective": best.objective / total if total else 0.0,
            "exchanges": best.exchanges,
        }
        if len(candidates) > 1:
            notes["start"] = self.starts[place]
        return Choice(best.chosen.tolist(), notes)
