"""Several trackers as one: each record goes to all of them."""

from dataclasses import dataclass
from pathlib import Path

from slimsweep.records.points import Record
from slimsweep.records.tracking.base import Tracker


@dataclass(frozen=True, kw_only=True)
class Several(Tracker):
    """Publishes to each of its trackers, also where another one fails."""

    trackers: tuple[Tracker, ...]

    def faults(self) -> list[str]:
        return [fault for one in self.trackers for fault in one.faults()]

    def off_reason(self) -> str | None:
        """The reasons of all, where none would publish."""
        reasons = [one.off_reason() for one in self.trackers]
        return "; ".join(filter(None, reasons)) if all(reasons) else None

    def publish(self, record: Record, sweeps: list[str], outputs_dir: Path) -> bool:
        sent = [one.publish(record, sweeps, outputs_dir) for one in self._on()]
        return all(sent)

    def publish_sweep(self, sweep: str, records: list[Record], figures: list[Path], outputs_dir: Path) -> bool:
        sent = [one.publish_sweep(sweep, records, figures, outputs_dir) for one in self._on()]
        return all(sent)

    def publish_failure(self, key: str, label: str, reason: str, outputs_dir: Path) -> bool:
        sent = [one.publish_failure(key, label, reason, outputs_dir) for one in self._on()]
        return all(sent)

    def _on(self) -> list[Tracker]:
        return [one for one in self.trackers if one.off_reason() is None]
