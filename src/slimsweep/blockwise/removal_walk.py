"""Structured pruning block by block: remove heads and neurons, and repair the layer that reads them.

For each block in forward order, and its heads before its neurons:

    inputs of the reader (the layer that reads the units) -> Gram matrix -> choose units -> repair the reader -> cut

The repair is optional. It fits the reader's remaining weights by least squares, so that its output changes least. The
next block is given the outputs of the reduced block. Without calibration text, units are chosen and cut, no more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.blockwise.shared_inputs import inputs_clause
from slimsweep.blockwise.walk import Visit, Walk
from slimsweep.errors import HessianError, ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.linear.mask import removed as removed_of
from slimsweep.models.anatomy import Units, units_of
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.surgery import remove
from slimsweep.numerics.finite import refuse_non_finite
from slimsweep.numerics.hessian import gram
from slimsweep.numerics.least_squares import least_squares


@dataclass(frozen=True)
class Choice:
    """Units of a block's heads or neurons to remove, and notes for the record."""

    removed: Sequence[int]
    notes: dict[str, Any] = field(default_factory=dict)


Choose = Callable[[int, Units, Tensor | None], Choice]
"""Function that chooses units, from a block's index, its units and, if collected, their reader's Gram matrix."""


def reduce_blocks(
    model: LanguageModel,
    kinds_by_block: dict[int, Sequence[str]],
    choose: Choose,
    batch: Batch | None = None,
    repair: bool = False,
    title: str = "",
) -> list[dict[str, Any]]:
    """Remove what `choose` names, for each block and kind of units, in forward order.

    Neurons are judged after the heads of their block went, and each block by the outputs of the reduced blocks
    before it. With a batch the Gram matrix is collected for `choose` and for the repair; without, no forward runs.
    Returns one entry of counts and notes for each block and kind.

    Raises:
        ModelError: calibration inputs that are not finite.
    """

    def treat(visit: Visit) -> list[dict[str, Any]]:
        entries = []
        for kind in kinds_by_block.get(visit.index, ()):
            units = units_of(model, kind, visit.index)
            seen = None if batch is None else _collect(visit, units)
            choice = choose(visit.index, units, seen)
            if len(set(choice.removed)) >= len(units):
                raise ModelError(
                    f"No {kind} would be left in block {visit.index}: an earlier stage left {len(units)}. "
                    "Give a smaller ratio."
                )
            entry = {"block": visit.index, "kind": kind, "before": len(units), "members": units.members, **choice.notes}
            if repair and seen is not None and len(choice.removed):
                entry |= _repair(units, choice.removed, seen)
            remove(model, units, choice.removed)
            entries.append(entry | {"removed": len(choice.removed)})
        return entries

    return Walk(title=title, batch=batch, stop=max(kinds_by_block, default=-1) + 1).run(model, treat)


def _collect(visit: Visit, units: Units) -> Float[Tensor, "in in"]:
    """Mean of x x^T over the calibration tokens, x the inputs of the units' reader."""
    reader = units.reader
    (shared,) = visit.collect({reader.name: reader.module}, gram)
    refuse_non_finite(shared.summed, inputs_clause([reader.name]), "remove less")
    return shared.summed / visit.activations.tokens(visit.index)


def _repair(units: Units, removed: Sequence[int], seen: Float[Tensor, "in in"]) -> dict[str, Any]:
    """Give the reader's surviving columns what the removed ones did, as far as a linear map can."""
    weight = weight_2d(units.reader.module)
    lost = units.reader.index[torch.tensor(sorted(removed))].flatten().to(weight.device)
    try:
        repaired, before, after, unconverged = least_squares(
            weight.double(), seen.double(), lost, removed_of(units.reader.module)
        )
    except HessianError as error:
        raise HessianError(f"{units.reader.name}: {error}") from error
    weight.copy_(repaired.to(weight.dtype))
    notes = {"error_before_repair": before, "error_after_repair": after}
    return notes | ({"unconverged_repair_rows": unconverged} if unconverged else {})


def _refuse_scores(scores: Float[Tensor, " unit"]) -> None:
    refuse_non_finite(scores, "The importance of some units is not finite: loss or weights overflowed")


def lowest_units(scores: Float[Tensor, " unit"], count: int) -> list[int]:
    """The `count` units of lowest score, the first of equals first.

    Raises:
        ModelError: a score is not finite.
    """
    _refuse_scores(scores)
    return scores.argsort(stable=True)[:count].tolist()


def lowest_units_overall(scores: dict[Any, Float[Tensor, " unit"]], count: int) -> dict[Any, list[int]]:
    """The `count` lowest of several places together; the best unit of each place always stays."""
    for values in scores.values():
        _refuse_scores(values)
    best = {place: int(values.argmax()) for place, values in scores.items()}
    ranked = sorted(
        (float(value), position, unit)
        for position, (place, values) in enumerate(scores.items())
        for unit, value in enumerate(values)
        if unit != best[place]
    )
    removed: dict[Any, list[int]] = {place: [] for place in scores}
    places = list(scores)
    for _, position, unit in ranked[:count]:
        removed[places[position]].append(unit)
    return removed
