"""Alerts on a record: what somebody should look at, told by every tracker that has alerts."""

from dataclasses import dataclass
from pathlib import Path

from slimsweep.checks import is_number
from slimsweep.records.divergence import base_value, diverged_losses, far_perplexities, lost
from slimsweep.records.points import Record
from slimsweep.records.portable import portable
from slimsweep.records.quantities import of_kind
from slimsweep.records.store import Store
from slimsweep.records.tracking.published import words


@dataclass(frozen=True)
class Alert:
    """A short title and one sentence."""

    title: str
    text: str
    is_error: bool = False
    """An error, not a warning."""


def alerts_of(record: Record, outputs_dir: Path) -> list[Alert]:
    """Alerts of a record: a later job on it failed, a loss diverged, or a perplexity is far above the dense one.

    The dense model is read from the output folder; where it is not there, perplexities raise nothing.
    """
    store = Store(outputs_dir)
    reason = store.failure(record["key"])
    failed = [failure(" ".join(words(record)), reason)] if reason else []
    return [*failed, *_diverged(record), *_far_from_dense(store, record)]


def failure(label: str, reason: str) -> Alert:
    """Alert of a job that failed."""
    return Alert("job failed", portable(f"{label}: {reason}"), is_error=True)


def _diverged(record: Record) -> list[Alert]:
    found = []
    for loss in diverged_losses(record):
        ending = "is not a number" if loss.end is None else f"rose from {loss.start:.4g} to {loss.end:.4g}"
        text = f"{' '.join(words(record))}: the validation loss of stage {loss.stage} {ending}"
        found.append(Alert("loss diverged", text))
    return found


def _far_from_dense(store: Store, record: Record) -> list[Alert]:
    """Perplexities far above the dense model's, and those that are no number where the dense model has one."""
    far = [(one.quantity, f"is {one.value:.4g}", one.dense) for one in far_perplexities(store, record)]
    for one in of_kind([record], "perplexity"):
        reason, dense = lost(record, one.field), base_value(store, record, one)
        far += [(one, f"has no value ({reason})", dense)] if reason and is_number(dense) else []
    title, label = "perplexity over ten times dense", " ".join(words(record))
    return [
        Alert(title, f"{label}: {one.field} {shown}, and {dense:.4g} of the dense model") for one, shown, dense in far
    ]
