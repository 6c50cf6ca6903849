"""Differences between neighbours of a ranking that may be noise, by tests on the same items."""

import math
from collections.abc import Sequence
from itertools import pairwise

from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.evaluation.quantity import Quantity
from slimsweep.figures.series import panels
from slimsweep.records.exported import outcomes_of
from slimsweep.records.paired import Paired, paired
from slimsweep.records.points import Record, titles
from slimsweep.records.store import Store
from slimsweep.reports.cautions import Caution

SIGNIFICANT = 0.05
"""p below which a difference is called real."""


def is_real(result: Paired) -> bool:
    """Whether a difference is unlikely without any: p below SIGNIFICANT."""
    return not math.isnan(result.p) and result.p < SIGNIFICANT


def noise(store: Store, records: Sequence[Record]) -> list[Caution]:
    """Neighbours in the ranking by each quality, model and protocol whose difference is not significant.

    A pair without outcomes of the same items is left out, and so are equal values.

    Raises:
        StoreError: a file of outcomes is damaged.
    """
    outcomes = {record["key"]: outcomes_of(store, record) for record in records}
    found, names = [], titles(records)
    for panel in panels(records, lambda one: one.group == "quality"):
        one = panel.quantity
        measured = [record for record in panel.records if record.get(panel.field) is not None]
        ranked = sorted(measured, key=lambda record: record[one.field], reverse=one.higher_is_better is True)
        for first, second in pairwise(ranked):
            result = compare(one, outcomes[first["key"]], outcomes[second["key"]])
            if result is not None and result.difference and not math.isnan(result.p) and not is_real(result):
                text = f"{names[first['key']]} and {names[second['key']]}: {sentence(one, result)}"
                found.append(Caution("Differences that are noise", text, (first["key"], second["key"])))
    return found


def compare(one: Quantity, own: dict[str, Outcomes], other: dict[str, Outcomes]) -> Paired | None:
    """Comparison of a second record with a first in one quantity; None where they keep no outcomes of equal items."""
    first, second = own.get(one.field), other.get(one.field)
    if first is None or second is None or first.items != second.items or first.aggregate != second.aggregate:
        return None
    return paired(first, second, one.higher_is_better is not False)


def sentence(one: Quantity, result: Paired) -> str:
    """A comparison in words: both values, the interval of the difference, p."""
    low, high = (format(end / one.divisor, "+.3g") for end in (result.low, result.high))
    return (
        f"{one.title} {digits(one, result.first)} and {digits(one, result.second)}; the difference lies between "
        f"{low} and {high} (95 % interval, {result.items} items), p = {result.p:.2g}"
    )


def digits(one: Quantity, value: int | float) -> str:
    """A value in the unit of the table with at least four digits, so that near ones differ."""
    scaled = value / one.divisor
    return one.text(value) if abs(scaled) >= 1000 else format(scaled, ".4g")
