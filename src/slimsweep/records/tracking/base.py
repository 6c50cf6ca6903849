"""Tracker: the contract of a mirror of records."""

from abc import ABC, abstractmethod
from pathlib import Path

from slimsweep.records.points import Record


class Tracker(ABC):
    """A mirror of records. A subclass is a frozen dataclass whose fields are its settings.

    `slimsweep` publishes each record after its job and each sweep at its end; `slim publish` does both again.
    """

    def off_reason(self) -> str | None:
        """Reason why nothing would be published, with the remedy; None where records are published."""
        return None

    @abstractmethod
    def publish(self, record: Record, sweeps: list[str], outputs_dir: Path) -> bool:
        """Publish one record, in place of an earlier one of its key. Whether it is published now."""

    @abstractmethod
    def publish_sweep(self, sweep: str, records: list[Record], figures: list[Path], outputs_dir: Path) -> bool:
        """Publish the records and the figures (PDF and PNG) of a sweep. Whether they are published now."""
