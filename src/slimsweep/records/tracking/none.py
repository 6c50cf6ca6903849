"""No tracker: records stay on disk only."""

from dataclasses import dataclass
from pathlib import Path

from slimsweep.records.points import Record
from slimsweep.records.tracking.base import Tracker


@dataclass(frozen=True, kw_only=True)
class NoTracker(Tracker):
    """Publishes nothing."""

    def off_reason(self) -> str:
        return "the tracker `none` publishes nothing: give --tracker with another name"

    def publish(self, record: Record, sweeps: list[str], outputs_dir: Path) -> bool:
        """Do nothing; False, since nothing was published."""
        return False

    def publish_sweep(self, sweep: str, records: list[Record], figures: list[Path], outputs_dir: Path) -> bool:
        """Do nothing; False, since nothing was published."""
        return False
