"""Alerts on a record: what somebody should look at, told by every tracker that has alerts."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.checks import is_number
from slimsweep.records.points import Record
from slimsweep.records.portable import portable
from slimsweep.records.quantities import in_group
from slimsweep.records.store import Store
from slimsweep.records.tracking.published import words

DIVERGED = 1.5
"""Times its first validation loss from which a stage's last one counts as diverged."""
TIMES_DENSE = 10.0
"""Times the dense model's perplexity from which a record raises an alert."""


@dataclass(frozen=True)
class Alert:
    """A short title and one sentence."""

    title: str
    text: str
    is_error: bool = False
    """An error, not a warning."""


def alerts_of(record: Record, outputs_dir: Path) -> list[Alert]:
    """Alerts of a record: a later job on it failed, a loss diverged, or a perplexity is far above the dense one.

    The dense model's record is read from the output folder; where it is not there, perplexities raise nothing.
    """
    store = Store(outputs_dir)
    base, reason = store.read(record.get("base_key") or record["key"]) or {}, store.failure(record["key"])
    failed = [failure(" ".join(words(record)), reason)] if reason else []
    return [*failed, *_diverged(record), *_far_from_dense(record, base)]


def failure(label: str, reason: str) -> Alert:
    """Alert of a job that failed."""
    return Alert("job failed", portable(f"{label}: {reason}"), is_error=True)


def _diverged(record: Record) -> list[Alert]:
    found = []
    for stage in record.get("stages") or []:
        training = (stage.get("notes") or {}).get("training") or {}
        losses = [point.get("validation_loss") for point in training.get("curve") or [] if "validation_loss" in point]
        if not losses:
            continue
        first, last = losses[0], losses[-1]
        is_lost = not _is_finite(last)
        if is_lost or (_is_finite(first) and first > 0 and last > DIVERGED * first):
            ending = "is not a number" if is_lost else f"rose from {first:.4g} to {last:.4g}"
            text = f"{' '.join(words(record))}: the validation loss of stage {stage['name']} {ending}"
            found.append(Alert("loss diverged", text))
    return found


def _far_from_dense(record: Record, base: Record) -> list[Alert]:
    found = []
    for one in in_group([record], "quality"):
        if "perplexity" not in one.field:
            continue
        value, dense = record.get(one.field), base.get(one.field)
        same = (record.get("protocols") or {}).get(one.field) == (base.get("protocols") or {}).get(one.field)
        if not same or not _is_finite(dense):
            continue
        lost = _lost(record, one.field)
        if lost or (_is_finite(value) and value > TIMES_DENSE * dense > 0):
            shown = f"has no value ({lost})" if lost else f"is {value:.4g}"
            text = f"{' '.join(words(record))}: {one.field} {shown}, and {dense:.4g} of the dense model"
            found.append(Alert("perplexity over ten times dense", text))
    return found


def _lost(record: Record, field: str) -> str | None:
    """Reason why a quantity that was measured is null: it overflowed or is no number."""
    reason = (record.get("reasons") or {}).get(field, "")
    return reason if record.get(field) is None and re.search(r"not finite|overflowed", reason) else None


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
