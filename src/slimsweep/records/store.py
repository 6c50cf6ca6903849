"""Finding records, sweeps and their state again: the folder tree below outputs_dir."""

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from slimsweep.errors import StoreError
from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.hints import nearest
from slimsweep.records import outcome_file
from slimsweep.records.record import assembled, write_json

log = logging.getLogger(__name__)

FOLDER_CHARACTERS = 16
"""Characters of a key that name its folder; the record holds the whole key."""
MINIMUM_FREE_BYTES = 64 * 2**20
"""Free disk space below which no job starts."""

_damaged: set[Path] = set()  # files already named in this process


@dataclass(frozen=True)
class SweepJob:
    """One experiment of a sweep, as the launch composed it."""

    key: str
    label: str
    overrides: list[str]
    measurements: list[str] = field(default_factory=list)
    """Identities of what the sweep asks to be measured of this model."""


@dataclass(frozen=True)
class JobStatus:
    """State of one job: `state` is done, running, failed or missing."""

    key: str
    label: str
    state: str
    reason: str
    log: str


class Store:
    """Records, sweeps and logs below one output folder. Readers never create anything."""

    def __init__(self, outputs_dir: Path):
        self.outputs_dir = Path(outputs_dir)
        self.records_dir = self.outputs_dir / "records"
        self.sweeps_dir = self.outputs_dir / "sweeps"
        self.shared_dir = self.outputs_dir / "by_shape"

    def fault(self) -> str | None:
        """Create the folder if it is missing; returns the reason why it cannot take new records, or None."""
        try:
            self.records_dir.mkdir(parents=True, exist_ok=True)
            probe = self.records_dir / f".writable.{time.time_ns()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            return f"outputs_dir {self.outputs_dir} cannot be written ({error.strerror}): choose outputs_dir=FOLDER"
        free = shutil.disk_usage(self.records_dir).free
        if free < MINIMUM_FREE_BYTES:
            return (
                f"outputs_dir {self.outputs_dir} has {free / 2**20:.0f} MiB free, at least "
                f"{MINIMUM_FREE_BYTES >> 20} MiB are needed: free space or choose outputs_dir=FOLDER"
            )
        return None

    def folder(self, key: str) -> Path:
        """Folder of one key: record.json, what it is made of (model.json, measurements/), layers.json and job.log."""
        return self.records_dir / key[:FOLDER_CHARACTERS]

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold a key while it is computed, so that two launches at once never compute it twice.

        Waits while another process holds it. The claim of a killed process ends with it.
        """
        self.folder(key).mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder(key) / ".lock"):
            yield

    def is_claimed(self, key: str) -> bool:
        """Whether a process is computing this key now."""
        # FileLock itself would open the file for writing, which a reader of somebody else's folder must not.
        try:
            with (self.folder(key) / ".lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @staticmethod
    def read_json(path: Path, kind: type = dict, needs: str = "") -> Any:
        """Content of a JSON file, or None where there is none. A damaged file counts as missing and is named once."""
        try:
            if not path.is_file():
                return None
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # bad UTF-8 and JSON are ValueErrors
            return Store._name_damage(path, str(error))
        if not isinstance(content, kind) or (needs and needs not in content):
            return Store._name_damage(path, f"it is no {kind.__name__}" + (f" with {needs!r}" if needs else ""))
        return content

    @staticmethod
    def _name_damage(path: Path, reason: str) -> None:
        if path not in _damaged:
            _damaged.add(path)
            log.warning("%s is damaged and counts as missing (%s)", path, reason)

    def read(self, key: str, asked: Iterable[str] | None = None) -> dict[str, Any] | None:
        """The record of a key, or None where it has not finished.

        With `asked`, identities of measurements, the record has the fields of these, and is None where one is missing.
        """
        record = self._record(self.folder(key) / "record.json")
        asked = list(asked or [])
        if record is None or not asked or list(dict.fromkeys(record.get("identities", {}).values())) == asked:
            return record
        model, measured = self.read_json(self.folder(key) / "model.json", needs="key"), self.measured(key)
        if model is None or any(identity not in measured for identity in asked):
            return None
        return assembled(model, [measured[identity] for identity in asked], self._before(model, asked))

    def measured(self, key: str) -> dict[str, dict[str, Any]]:
        """Everything ever measured of a key's model, by identity."""
        paths = sorted((self.folder(key) / "measurements").glob("*.json"))
        kept = [self.read_json(path, needs="identity") for path in paths]
        return {one["identity"]: one for one in kept if one}

    def begin(self, model: dict[str, Any], layers: list[dict]) -> None:
        """Write what is known of a model before it is measured: its layers first, so that they are never lost."""
        folder = self.folder(model["key"])
        write_json(folder / "layers.json", layers)
        write_json(folder / "model.json", model)

    def keep(self, key: str, measured: dict[str, Any]) -> None:
        """Write a measurement as soon as it is made; only the same identity takes its place.

        Its outcomes lie beside it in a file of their own, written first.
        """
        path, outcomes = self._measurement_path(key, measured["identity"]), measured.get("outcomes") or {}
        if outcomes:
            outcome_file.write(path.with_suffix(".npz"), outcomes)
        write_json(path, measured | {"outcomes": outcome_file.described(outcomes)})

    def _measurement_path(self, key: str, identity: str) -> Path:
        return self.folder(key) / "measurements" / f"{identity[:FOLDER_CHARACTERS]}.json"

    def outcomes(self, record: dict[str, Any]) -> dict[str, Outcomes]:
        """Contribution of each item, by field of a record; measurements of older versions kept none.

        Raises:
            StoreError: a file of outcomes is damaged.
        """
        by_identity: dict[str, dict[str, Outcomes]] = {}
        found = {}
        for name, identity in (record.get("identities") or {}).items():
            if identity not in by_identity:
                path = self._measurement_path(record["key"], identity)
                told = (self.read_json(path, needs="identity") or {}).get("outcomes") or {}
                by_identity[identity] = outcome_file.read(path.with_suffix(".npz"), told)
            if own := by_identity[identity].get(name.partition("[")[0]):
                found[name] = own
        return found

    def finish(self, key: str, asked: Iterable[str]) -> dict[str, Any]:
        """Write the record of a model, with the measurements asked for; returns it."""
        kept, model, asked = self.measured(key), self.model(key), list(asked)
        record = assembled(model, [kept[identity] for identity in asked], self._before(model, asked))
        self._show(record)
        return record

    def _before(self, model: dict[str, Any], asked: list[str]) -> list[dict[str, Any]]:
        """The same measurements of the model before its last training stage, as far as they are there."""
        if not model.get("before_key"):
            return []
        known = self.measured(model["before_key"])
        return [known[identity] for identity in asked if identity in known]

    def model(self, key: str) -> dict[str, Any] | None:
        """The fields of a record that are no measurement."""
        return self.read_json(self.folder(key) / "model.json", needs="key")

    def layers(self, key: str) -> list[dict] | None:
        """Counts of every layer that the stages of a key treated; None where they are missing or damaged."""
        return self.read_json(self.folder(key) / "layers.json", list)

    def shared(self, place: str) -> dict[str, Any] | None:
        """A measurement that depends on shapes and machine alone, of whichever model it was made first."""
        return self.read_json(self.shared_dir / f"{place[:FOLDER_CHARACTERS]}.json", needs="identity")

    def share(self, place: str, measured: dict[str, Any], key: str) -> None:
        """Keep a measurement of a key's model for all models of equal shapes."""
        write_json(self.shared_dir / f"{place[:FOLDER_CHARACTERS]}.json", measured | {"source": key})

    def _record(self, path: Path) -> dict[str, Any] | None:
        return self.read_json(path, needs="key")

    def write(self, record: dict[str, Any], layers: list[dict]) -> Path:
        """Write a record, its per-layer counts first; returns the path of record.json."""
        write_json(self.folder(record["key"]) / "layers.json", layers)
        return self._show(record)

    def _show(self, record: dict[str, Any]) -> Path:
        folder = self.folder(record["key"])
        write_json(folder / "record.json", record)
        (folder / "failure.json").unlink(missing_ok=True)
        return folder / "record.json"

    def write_failure(self, key: str, reason: str) -> None:
        """Keep why a key failed, for `slim status`; a later success removes it."""
        write_json(self.folder(key) / "failure.json", {"reason": reason})

    def failure(self, key: str) -> str | None:
        """Reason why the last job of a key failed; None where it did not fail."""
        kept = self.read_json(self.folder(key) / "failure.json", needs="reason")
        return kept["reason"] if kept else None

    def records(self) -> list[dict[str, Any]]:
        """Every finished record, in the order of their keys."""
        paths = sorted(self.records_dir.glob("*/record.json"))
        return [record for path in paths if (record := self._record(path))]

    def find(self, prefix: str) -> dict[str, Any]:
        """The one record whose key starts with `prefix`.

        Raises:
            StoreError: no record or several match.
        """
        names = sorted(path.parent.name for path in self.records_dir.glob("*/record.json"))
        folder = prefix[:FOLDER_CHARACTERS]
        matches = [name for name in names if folder and name.startswith(folder)]
        records = [record for name in matches if (record := self.read(name)) and record["key"].startswith(prefix)]
        if len(records) == 1:
            return records[0]
        near = [record["key"][:FOLDER_CHARACTERS] for record in records]
        near = near or nearest(prefix, [name for name in names if self.read(name)])
        found = "several records start" if records else "no record starts"
        hint = f"near: {', '.join(near)}" if near else f"{len(names)} records in {self.records_dir}"
        raise StoreError(f"{found} with {prefix!r} ({hint}). `slim table SWEEP` lists the keys of a sweep.")

    def sweep_names(self) -> list[str]:
        """Names of the sweeps launched into this folder whose lists can be read."""
        names = sorted(path.parent.name for path in self.sweeps_dir.glob("*/jobs.json"))
        return [name for name in names if self._jobs(name) is not None]

    def _jobs(self, name: str) -> list[SweepJob] | None:
        path = self.sweeps_dir / name / "jobs.json"
        try:
            content = self.read_json(path, list)
            return None if content is None else [SweepJob(**job) for job in content]
        except TypeError as error:  # an entry has other fields
            return self._name_damage(path, str(error))

    def sweep_jobs(self, name: str) -> list[SweepJob]:
        """The jobs of a sweep's latest launch, in its order.

        Raises:
            StoreError: no sweep of that name was launched, or its list is damaged.
        """
        jobs = self._jobs(name)
        if jobs is None:
            known = ", ".join(self.sweep_names()) or "none yet"
            path = self.sweeps_dir / name / "jobs.json"
            lost = f"the list of jobs {path} is damaged" if path.is_file() else f"no sweep {name!r} was launched here"
            raise StoreError(f"{lost} (known: {known}). Run: slimsweep +sweeps={name}")
        return jobs

    def sweep_records(self, name: str) -> list[dict[str, Any]]:
        """The finished records of a sweep, in the order of its jobs."""
        return [record for job in self.sweep_jobs(name) if (record := self.read(job.key, job.measurements))]

    def open_sweep(self, name: str, jobs: list[SweepJob]) -> None:
        """Keep a sweep's own list of keys. Jobs that differ from the last launch undo its completeness."""
        content = [asdict(job) for job in jobs]
        path = self.sweeps_dir / name / "jobs.json"
        if self.read_json(path, list) != content:
            (path.parent / ".complete").unlink(missing_ok=True)
            write_json(path, content)

    def close_sweep(self, name: str, jobs: list[SweepJob]) -> Path:
        """Mark a sweep whose jobs all have records, for make; a finished one keeps its time stamp.

        A launch whose list was replaced by a later one marks nothing.
        """
        path = self.sweeps_dir / name / ".complete"
        if not path.is_file() and self.sweep_jobs(name) == jobs:
            write_json(path, {"jobs": len(jobs)})
        return path

    @contextmanager
    def finishing(self, name: str) -> Iterator[None]:
        """Held while a sweep's table and figures are made, so that two launches do not write them at once."""
        with FileLock(self.sweeps_dir / name / ".lock"):
            yield

    def status(self, name: str) -> list[JobStatus]:
        """State of each job of a sweep, with the reason of each failure and the path of its log."""
        return self.states(self.sweep_jobs(name))

    def states(self, jobs: Iterable[SweepJob]) -> list[JobStatus]:
        """State of each of some jobs."""
        return [self._job_status(job) for job in jobs]

    def _job_status(self, job: SweepJob) -> JobStatus:
        folder = self.folder(job.key)
        reason, state = "", "missing"
        if self.read(job.key, job.measurements):
            state = "done"
        elif self.is_claimed(job.key):
            state = "running"
        elif failure := self.failure(job.key):
            state, reason = "failed", failure
        log = folder / "job.log"
        return JobStatus(job.key, job.label, state, reason, str(log) if log.is_file() else "")

    def sweeps_of(self, key: str) -> list[str]:
        """Names of the sweeps whose list holds this key."""
        return [name for name in self.sweep_names() if any(job.key == key for job in self.sweep_jobs(name))]
