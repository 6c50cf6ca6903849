"""Mirrors records to Trackio: SQLite files on this disk, which `trackio show` draws as a dashboard.

Rows are written by Trackio's own storage, not by its logging client. The client would ask the hub for the user's name
and publish measurements of the machine.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slimsweep.checks import refuse
from slimsweep.records.points import Record
from slimsweep.records.tracking.alerts import Alert, alerts_of, failure
from slimsweep.records.tracking.base import Tracker
from slimsweep.records.tracking.credentials import failure_text
from slimsweep.records.tracking.published import (
    ID_CHARACTERS,
    config_of,
    curves_over_ratio,
    point_of,
    run_id,
    training_curves,
    words,
)

log = logging.getLogger(__name__)

APPENDED = ("metrics", "alerts")
LOCK_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Trackio(Tracker):
    """One run per record and one per sweep, in a project's SQLite file."""

    needs: ClassVar[dict[str, str]] = {"trackio": "slimsweep[trackio]"}

    project: str = "slimsweep"
    folder: str | None = None
    """Folder of the SQLite files; None: `trackio` in the output folder. TRACKIO_DIR wins over both."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.project):
            refuse([f"tracker.trackio.project={self.project!r}: a name of letters, digits, - and _"])

    def publish(self, record: Record, sweeps: list[str], outputs_dir: Path) -> bool:
        group = record.get("sweep") or (sweeps[0] if sweeps else None)
        rows = [
            {f"{stage}/{name}": value for name, value in point.items()}
            for stage, points in training_curves(record).items()
            for point in points
        ]
        config = config_of(record) | {"sweeps": sweeps, "tags": words(record)}
        return self._write(
            _Run(run_id(record), " ".join(words(record)), group, config, [*rows, point_of(record)]),
            alerts_of(record, outputs_dir),
            outputs_dir,
        )

    def publish_sweep(self, sweep: str, records: list[Record], figures: list[Path], outputs_dir: Path) -> bool:
        """Make a sweep's own run: a row for each ratio, with the qualities of every technique at it."""
        rows: dict[float, dict[str, Any]] = {}
        for name, lines in curves_over_ratio(records).items():
            for label, points in lines.items():
                for ratio, value in points:
                    rows.setdefault(ratio, {"ratio": ratio})[f"{name}/{label}"] = value
        config = {"sweep": sweep, "jobs": len(records), "keys": [record["key"] for record in records]}
        listed = [rows[ratio] for ratio in sorted(rows)] or [{"jobs": len(records)}]
        return self._write(_Run(f"sweep-{sweep}", f"sweep {sweep}", sweep, config, listed), [], outputs_dir)

    def publish_failure(self, key: str, label: str, reason: str, outputs_dir: Path) -> bool:
        run = _Run(key[:ID_CHARACTERS], label, None, {"key": key, "state": "failed"}, [{"failed": 1}])
        return self._write(run, [failure(label, reason)], outputs_dir)

    def _write(self, run: "_Run", alerts: Sequence[Alert], outputs_dir: Path) -> bool:
        """Write a run in place of an earlier one of its id. Whatever goes wrong becomes a warning."""
        folder = Path(os.environ.get("TRACKIO_DIR") or self.folder or outputs_dir / "trackio")
        try:
            with storage_in(folder) as storage:
                older = _newest_rows(storage, self.project)
                config = run.config | {"_Group": run.group}
                storage.bulk_log(self.project, run.name, run.rows, config=config, run_id=run.id)
                storage.bulk_alert(
                    self.project,
                    run.name,
                    titles=[one.title for one in alerts],
                    texts=[one.text for one in alerts],
                    levels=["error" if one.is_error else "warn" for one in alerts],
                    steps=[None] * len(alerts),
                    run_id=run.id,
                )
                _remove(storage, self.project, run.id, older)
        except Exception as error:  # whatever a third party raises, a finished job keeps its record
            reason = failure_text(error)
        else:
            return True
        log.warning("Trackio: %s (not mirrored)", reason)  # outside the handler, as in wandb.py
        return False


@dataclass(frozen=True)
class _Run:
    """Content of one run."""

    id: str
    name: str
    group: str | None
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    """Numbers by step."""


@contextmanager
def storage_in(folder: Path) -> Iterator[Any]:
    """Trackio's storage with its files in a folder; the module reads its own folder once, when it is imported."""
    from trackio import sqlite_storage

    folder.mkdir(parents=True, exist_ok=True)
    before = sqlite_storage.TRACKIO_DIR
    sqlite_storage.TRACKIO_DIR = folder
    try:
        yield sqlite_storage.SQLiteStorage
    finally:
        sqlite_storage.TRACKIO_DIR = before


def _newest_rows(storage: Any, project: str) -> dict[str, int]:
    """Highest row of each table that a run appends to; the table of configs keeps one row for each run."""
    storage.init_db(project)
    with closing(_database(storage, project)) as database:
        return {table: database.execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0 for table in APPENDED}


def _remove(storage: Any, project: str, run_id: str, older: Mapping[str, int]) -> None:
    """Remove the rows of a run up to the given ones, all or none."""
    with closing(_database(storage, project)) as database, database:
        for table, row in older.items():
            database.execute(f"DELETE FROM {table} WHERE run_id = ? AND id <= ?", (run_id, row))


def _database(storage: Any, project: str) -> sqlite3.Connection:
    return sqlite3.connect(storage.get_project_db_path(project), timeout=LOCK_SECONDS)
