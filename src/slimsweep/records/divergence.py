"""Signs that a model broke: losses that diverged, values that are no number, perplexities far above the dense model's.

Reports and the alerts of trackers follow these rules alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slimsweep.checks import is_number
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.points import Record
from slimsweep.records.quantities import of_kind
from slimsweep.records.store import Store

DIVERGED = 1.5
"""Times its first validation loss from which a stage's last one counts as diverged."""
TIMES_DENSE = 10.0
"""Times the dense model's perplexity from which one is far above it."""
NOT_FINITE = ("not finite", "overflowed")
"""Words in the reasons of values that were measured and are no number."""


@dataclass(frozen=True)
class Loss:
    """First and last validation loss of a stage that diverged."""

    stage: str
    start: int | float | None
    end: int | float | None
    """None: it is not finite."""


@dataclass(frozen=True)
class FarPerplexity:
    """A perplexity over TIMES_DENSE times that of the dense model."""

    quantity: Quantity
    value: int | float
    dense: int | float


def diverged_losses(record: Record) -> list[Loss]:
    """Stages whose last validation loss is not finite, or over DIVERGED times the first."""
    found = []
    for stage in record.get("stages") or []:
        start, end = _ends((stage.get("notes") or {}).get("training") or {})
        if not _is_finite(end):
            found += [] if end is _UNKNOWN else [Loss(stage["name"], start if _is_finite(start) else None, None)]
        elif _is_finite(start) and start > 0 and end > DIVERGED * start:
            found.append(Loss(stage["name"], start, end))
    return found


_UNKNOWN = object()


def _ends(training: dict[str, Any]) -> tuple[Any, Any]:
    """First and last validation loss of an account of training; _UNKNOWN where it tells none."""
    if "loss_end" in training:
        return training.get("loss_start"), training["loss_end"]
    losses = [point["validation_loss"] for point in training.get("curve") or [] if "validation_loss" in point]
    return (losses[0], losses[-1]) if losses else (_UNKNOWN, _UNKNOWN)


def lost(record: Record, field: str) -> str | None:
    """Reason why a quantity that was measured is null: it overflowed, or logits are not finite. None: neither."""
    reason = (record.get("reasons") or {}).get(field, "")
    return reason if record.get(field) is None and any(words in reason for words in NOT_FINITE) else None


def far_perplexities(store: Store, record: Record, records: Sequence[Record] = ()) -> list[FarPerplexity]:
    """Perplexities over TIMES_DENSE times that of the base by the same protocol; see `base_value` for `records`."""
    found = []
    for one in of_kind([record], "perplexity"):
        value, base = record.get(one.field), base_value(store, record, one, records)
        if _is_finite(value) and _is_finite(base) and value > TIMES_DENSE * base > 0:
            found.append(FarPerplexity(one, value, base))
    return found


def base_value(store: Store, record: Record, one: Quantity, records: Sequence[Record] = ()) -> int | float | None:
    """Value of a quantity in the base of a record, by the same measurement; None where the base has none.

    Read from `records` first, then from the measurements of the base in the store, then from its record there.
    """
    key = record.get("base_key")
    identity, protocol = (record.get("identities") or {}).get(one.field), _protocol(record, one)
    near = [other for other in records if other["key"] == key or _is_dense_beside(other, record)]
    for other in sorted(near, key=lambda other: other["key"] != key):
        if _protocol(other, one) == protocol and other.get(one.field) is not None:
            return other[one.field]
    if not key:
        return None
    if identity and (measured := store.measured(key).get(identity)):
        return measured["values"].get(one.field.partition("[")[0])
    base = store.read(key) or {}
    return base.get(one.field) if _protocol(base, one) == protocol else None


def _protocol(record: Record, one: Quantity) -> str | None:
    return (record.get("protocols") or {}).get(one.field)


def _is_dense_beside(other: Record, record: Record) -> bool:
    """Whether a record without a base_key, of an older version, has this dense model beside it."""
    same = all(other.get(name) == record.get(name) for name in ("model", "baseline", "dtype", "weights"))
    return not record.get("base_key") and not other.get("stages") and same


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
