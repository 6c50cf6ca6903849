"""Tracker: the contract of a mirror of records."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from slimsweep.records.points import Record


class Tracker(ABC):
    """A mirror of records. A subclass is a frozen dataclass whose fields are its settings.

    `slimsweep` publishes each record after its job and each sweep at its end; `slim publish` does both again. A record
    with alerts (tracking/alerts.py) raises them where the tracker has alerts.
    """

    needs: ClassVar[dict[str, str]] = {}
    """Packages that it imports, by the words that pip installs each with."""

    def faults(self) -> list[str]:
        """Reasons why it cannot work here; found before a job begins."""
        name = type(self).__name__
        return [
            f"tracker {name} needs the package {package}, which is not installed: pip install '{install}', or set "
            "tracker=none; `slim publish` can send the records later"
            for package, install in self.needs.items()
            if importlib.util.find_spec(package) is None
        ]

    def with_options(self, names: Collection[str]) -> "Tracker":
        """The tracker with fields that options of a command gave; where the environment wins over a field, not here."""
        return self

    def off_reason(self) -> str | None:
        """Reason why nothing would be published, with the remedy; None where records are published."""
        return None

    @abstractmethod
    def publish(self, record: Record, sweeps: list[str], outputs_dir: Path) -> bool:
        """Publish one record, in place of an earlier one of its key. Whether it is published now."""

    @abstractmethod
    def publish_sweep(self, sweep: str, records: list[Record], figures: list[Path], outputs_dir: Path) -> bool:
        """Publish the records and the figures (PDF and PNG) of a sweep. Whether they are published now."""

    def publish_failure(self, key: str, label: str, reason: str, outputs_dir: Path) -> bool:
        """Tell that a job failed, under the key of its record, which replaces this later. Whether it was told."""
        return False
