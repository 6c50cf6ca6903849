"""Importance of heads, neurons or residual channels: by gradients, by norms, by chance."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimsweep.blockwise.gradients import gradients, loss
from slimsweep.models.anatomy import Slot, Units, axes_of
from slimsweep.models.batches import Batch, sequence_count, split
from slimsweep.models.language_model import LanguageModel

ORDERS = ("first", "second", "mixed")
TAYLOR = ("vector", "element")
AGGREGATES = ("sum", "mean", "max", "first")


def combine(per_slot: Sequence[Float[Tensor, " unit"]], aggregate: str) -> Float[Tensor, " unit"]:
    """One score of each unit from those of its parts. Source: arXiv:2305.11627, sec. 3.2, group importance."""
    stacked = torch.stack(list(per_slot))
    if aggregate == "first":
        return stacked[0]
    return stacked.amax(dim=0) if aggregate == "max" else getattr(stacked, aggregate)(dim=0)


def norm_scores(units: Units, power: int, aggregate: str) -> Float[Tensor, " unit"]:
    """Norm (l1 or l2) of every row or column that a unit owns, summed over each part, then combined."""
    per_slot = []
    for slot in distinct(units.slots):
        values = _oriented(slot.module.weight.detach().float(), slot)
        lines = torch.linalg.vector_norm(values, ord=power, dim=1)
        per_slot.append(_by_unit(lines, slot))
    return combine(per_slot, aggregate)


def taylor_scores(
    model: LanguageModel,
    units: Sequence[Units],
    batch: Batch,
    order: str,
    taylor: str,
    aggregate: str,
) -> list[Float[Tensor, " unit"]]:
    """Expected change of the loss when a unit is removed, for all units from one pass over the text.

    With w a weight, g_j its gradient on sequence j of N: `first` is sum_j g_j w / N, `second` sum_j (g_j w)^2 / N,
    `mixed` the first less half the second. `vector` sums them over each row or column before taking the absolute
    value, `element` takes it of each weight.

    Source: arXiv:2305.11627, eq. 3-5, the Hessian by the squared gradients of single sequences.
    """
    slots = {id(slot.module.weight): slot for place_units in units for slot in place_units.slots}
    sums = {
        identity: _Salience(slot.module.weight, order, taylor, _sides(units, identity))
        for identity, slot in slots.items()
    }
    with gradients(
        [salience.parameter for salience in sums.values()], lambda parameter: sums[id(parameter)].add(parameter)
    ):
        for one in split(batch, 1):
            loss(model, one).backward()
    lines = {identity: salience.lines(sequence_count(batch)) for identity, salience in sums.items()}
    return [
        combine(
            [_by_unit(lines[id(slot.module.weight)][_axis(slot)], slot) for slot in distinct(place_units.slots)],
            aggregate,
        )
        for place_units in units
    ]


def distinct(slots: Iterable[Slot]) -> list[Slot]:
    """Slots without those whose values another one has already: tied weights count once."""
    seen: dict[Any, Slot] = {}
    for slot in slots:
        seen.setdefault((id(slot.module.weight), _axis(slot), tuple(slot.index[0].tolist())), slot)
    return list(seen.values())


class _Salience:
    """Taylor terms of one parameter, summed over sequences as they come."""

    def __init__(self, parameter: nn.Parameter, order: str, taylor: str, axes: set[int]):
        self.parameter = parameter
        self._order = order
        self._axes = axes
        needs_elements = taylor == "element" and order != "second"
        self._elements = torch.zeros_like(parameter, dtype=torch.float32) if needs_elements else None
        self._lines = {axis: torch.zeros(parameter.shape[axis], device=parameter.device) for axis in axes}

    def add(self, parameter: nn.Parameter) -> None:
        change = parameter.grad.float() * parameter.detach().float()
        if self._order == "second":
            change = change.square()
        elif self._order == "mixed":
            change = change - change.square() / 2
        if self._elements is not None:
            self._elements += change
            return
        for axis, total in self._lines.items():
            total += _lines(change, axis)

    def lines(self, sequences: int) -> dict[int, Float[Tensor, " line"]]:
        """Absolute salience of each line along each axis."""
        if self._elements is not None:
            return {axis: _lines(self._elements.abs(), axis) / sequences for axis in self._axes}
        return {axis: total.abs() / sequences for axis, total in self._lines.items()}


def _lines(values: Tensor, axis: int) -> Float[Tensor, " line"]:
    """Sum of each line along an axis of a matrix; a vector is its own lines."""
    return values.sum(dim=1 - axis) if values.dim() == 2 else values


def _sides(units: Sequence[Units], identity: int) -> set[int]:
    return {_axis(slot) for place_units in units for slot in place_units.slots if id(slot.module.weight) == identity}


def _axis(slot: Slot) -> int:
    """The axis of the module's weight along which the slot's units lie."""
    return dict(axes_of(slot.module, slot.side))["weight"]


def _oriented(weight: Tensor, slot: Slot) -> Float[Tensor, "line value"]:
    """The weight with the slot's units along the rows."""
    if weight.dim() == 1:
        return weight[:, None]
    return weight if _axis(slot) == 0 else weight.T


def _by_unit(lines: Float[Tensor, " line"], slot: Slot) -> Float[Tensor, " unit"]:
    """Scores of lines summed over those each unit owns, on the host."""
    return lines.cpu()[slot.index].sum(dim=1)
