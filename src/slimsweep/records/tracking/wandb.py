"""Mirrors records to Weights & Biases. The record on disk is the truth; no fault here may cost a job."""

import copy
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slimsweep.checks import choice_faults, refuse
from slimsweep.records.points import Record
from slimsweep.records.portable import portable
from slimsweep.records.quantities import quantities_of
from slimsweep.records.tracking.alerts import Alert, alerts_of, failure
from slimsweep.records.tracking.base import Tracker
from slimsweep.records.tracking.credentials import failure_text, has_key, settings_files
from slimsweep.records.tracking.published import (
    ID_CHARACTERS,
    config_of,
    curves_over_ratio,
    point_of,
    run_id,
    scalar_table,
    summary_of,
    training_curves,
    words,
)

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
PROJECT = "slimsweep"
LONGEST_TAG = 64
INIT_SECONDS = 30
"""Longest time that an online run may wait for the server before it is kept offline instead."""
FINISH_SECONDS = 120
"""Longest time of the upload of one run; `wandb sync` can send the rest later."""
NO_KEY = (
    "there is no W&B API key: run `wandb login`, or set WANDB_API_KEY (and WANDB_BASE_URL, if the server is your own)"
)
OWN_RUN = dict.fromkeys(("sweep_id", "sweep_param_path", "run_id", "resume", "resume_from", "fork_from")) | {
    "launch": False
}
"""Settings by which a W&B agent or the environment would put records into a run of another id, as they must be."""

_unreachable = False
"""Set after the first failure to reach the server: later runs of this process go offline at once."""


@dataclass(frozen=True, kw_only=True)
class Wandb(Tracker):
    """One run per record and one per sweep. `WANDB_*` environment variables win over these fields but `mode`.

    Options of a command win over the environment: `with_options` names them.
    """

    project: str = PROJECT
    entity: str | None = None
    tags: tuple[str, ...] = ()
    """Added to the tags for model, technique, level and sweeps."""
    notes: str | None = None
    mode: str = "auto"
    """auto is what WANDB_MODE or W&B's settings files say, else online when a key is configured, else offline."""
    options: ClassVar[tuple[str, ...]] = ()
    """Names of fields that options of a command gave. No field itself: no YAML may set it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", (self.tags,) if isinstance(self.tags, str) else tuple(self.tags))
        refuse(choice_faults("tracker.wandb.mode", [self.mode], MODES))

    def with_options(self, names: Collection[str]) -> "Wandb":
        tracker = copy.copy(self)
        object.__setattr__(tracker, "options", tuple(names))
        return tracker

    def off_reason(self) -> str | None:
        if self.resolved_mode() != "disabled":
            return None
        by = "--mode" if self.mode != "auto" else "WANDB_MODE or `wandb disabled`"
        return f"Weights & Biases is disabled by {by}: give --mode online or --mode offline"

    def publish(self, record: Record, sweeps: list[str], outputs_dir: Path) -> bool:
        """Make the run of one record, replacing an older one of the same key. Whether it is there now."""
        identity = {
            "id": run_id(record),
            "name": " ".join(words(record)),
            "group": record.get("sweep") or (sweeps[0] if sweeps else None),
            "job_type": "experiment",
            "tags": [*words(record), *sweeps],
            "config": config_of(record),
        }

        def fill(run: Any, wandb: Any) -> None:
            run.define_metric("*", step_metric="ratio")  # the dashboard then draws every number over the ratio
            for stage, points in training_curves(record).items():
                run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
                for point in points:
                    run.log({f"{stage}/{name}": value for name, value in point.items()})
            run.log(point_of(record))
            run.summary.update(summary_of(record))
            raise_alerts(run, alerts)

        alerts = alerts_of(record, outputs_dir)
        return self._send(identity, fill, outputs_dir)

    def publish_sweep(self, sweep: str, records: list[Record], figures: list[Path], outputs_dir: Path) -> bool:
        """Make a sweep's own run: its records as a table, its curves as charts, its figures as images."""
        identity = {
            "id": "sweep-" + re.sub(r"[^A-Za-z0-9_.-]", "-", sweep),
            "name": f"sweep {sweep}",
            "group": sweep,
            "job_type": "sweep",
            "tags": [*dict.fromkeys(record["model"] for record in records), sweep],
            "config": {"sweep": sweep, "jobs": len(records)},
        }

        def fill(run: Any, wandb: Any) -> None:
            images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures if path.suffix == ".png"}
            columns, rows = scalar_table(records)
            table = wandb.Table(columns=columns, data=rows)
            run.log({"records": table, **images, **charts(records, wandb)})
            run.summary.update({"jobs": len(records), "keys": [record["key"] for record in records]})

        return self._send(identity, fill, outputs_dir)

    def publish_failure(self, key: str, label: str, reason: str, outputs_dir: Path) -> bool:
        """Make a run of a failed job with its alert; the record's run has the same id and replaces it later."""
        identity = {
            "id": key[:ID_CHARACTERS],
            "name": label,
            "group": None,
            "job_type": "failure",
            "tags": ["failed"],
            "config": {"key": key},
        }

        def fill(run: Any, wandb: Any) -> None:
            run.summary.update({"state": "failed", "reason": portable(reason)})
            raise_alerts(run, [failure(label, reason)])

        return self._send(identity, fill, outputs_dir)

    def _send(self, identity: dict[str, Any], fill: Any, outputs_dir: Path) -> bool:
        """Make a run, online if possible, else offline. Whatever goes wrong becomes a warning."""
        global _unreachable
        mode = self.resolved_mode()
        if mode == "disabled":
            return False
        for attempt in dict.fromkeys(["offline" if _unreachable else mode, "offline"]):
            try:
                self._run(identity, fill, Path(os.environ.get("WANDB_DIR") or outputs_dir), attempt)
                return True
            except Exception as error:  # whatever a third party raises, a finished job keeps its record
                reason = failure_text(error)
            # Outside the handler: a log that cannot be written prints the handled error, whose text may name a key.
            _unreachable = _unreachable or attempt == "online"
            then = "kept offline; see `slim publish`" if attempt == "online" else "not mirrored"
            log.warning("Weights & Biases: %s (%s)", reason, then)
            stop_service()
        return False

    def resolved_mode(self) -> str:
        """online, offline or disabled, as these fields, the environment, W&B's files and the key decide, in order."""
        if self.mode != "auto":
            return self.mode
        mode = os.environ.get("WANDB_MODE") or settings_files().get("mode")
        mode = {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)
        return mode or ("online" if has_key() else "offline")

    def destination(self) -> tuple[str, str | None]:
        """Project and entity of its runs; no entity stands for the default one of the key."""
        files = settings_files()
        project = files.get("project", PROJECT) if self.project == PROJECT else self.project
        if "project" in self.options:  # also where the default name was typed
            project = self.project
        elif "WANDB_PROJECT" in os.environ:
            project = os.environ["WANDB_PROJECT"] or project
        entity = self.entity or files.get("entity")
        if "entity" not in self.options:
            entity = os.environ.get("WANDB_ENTITY") or entity
        return project, entity

    def online_faults(self) -> list[str]:
        """Reasons why nothing may be sent to its server, each with what to type."""
        mode = self.resolved_mode()
        if mode == "online":
            return [] if has_key() else [NO_KEY]
        is_chosen = os.environ.get("WANDB_MODE") or settings_files().get("mode")
        by = f"WANDB_MODE or W&B's settings files say {mode}: set WANDB_MODE=online, or run `wandb online`"
        return [f"Weights & Biases may not be reached. {by}"] if is_chosen else [NO_KEY]

    def _run(self, identity: dict[str, Any], fill: Any, folder: Path, mode: str) -> None:
        # Read once, when its service starts: no crash reports to a third party.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        extra = os.environ.get("WANDB_TAGS")
        tags = [*identity["tags"], *(extra.split(",") if extra else self.tags)]
        project, entity = self.destination()
        chosen = {
            "project": project,
            "entity": entity,
            "notes": os.environ.get("WANDB_NOTES") or self.notes,
            "tags": list(dict.fromkeys(tag.strip()[:LONGEST_TAG] for tag in tags if tag.strip())),
        }
        settings = private_settings(wandb, mode)
        if identity["job_type"] == "experiment":
            settings.sweep_id = os.environ.get("WANDB_SWEEP_ID") or None
        with ids_of_our_own(wandb):
            run = wandb.init(**{**identity, **chosen}, dir=str(folder), reinit="create_new", settings=settings)
        # A context manager always finishes the run, so that the next job cannot fall into it.
        with run:
            fill(run, wandb)
            current = Path(run.dir).parent
            if mode == "online":
                log.info("Weights & Biases: %s", run.url)
        remove_older(current.parent, identity["id"], current)


def raise_alerts(run: Any, alerts: Sequence[Alert]) -> None:
    """Raise alerts on a run, and keep them in its summary: an offline run sends them when it is synchronised."""
    for one in alerts:
        run.alert(one.title, one.text, level="ERROR" if one.is_error else "WARN")
    if alerts:
        run.summary.update({"alerts": [f"{one.title}: {one.text}" for one in alerts]})


def private_settings(wandb: Any, mode: str) -> Any:
    """Settings that publish the record and nothing of the machine, and that start no measuring threads."""
    return wandb.Settings(
        mode=mode,
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        host="",
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        sagemaker_disable=True,  # it would name every run of this process alike
        login_timeout=INIT_SECONDS,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
    )


@contextmanager
def ids_of_our_own(wandb: Any) -> Iterator[None]:
    """Start a run under the id it is given: under an agent W&B ignores that, and a key would get a second run."""
    settings = wandb.setup().settings
    before = {name: getattr(settings, name) for name in OWN_RUN if hasattr(settings, name)}
    for name in before:
        setattr(settings, name, OWN_RUN[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


def stop_service() -> None:
    """Drop what a failed start left in wandb's background service, where it would hold the run's id."""
    with suppress(Exception):  # after a failure nothing is owed; the next run starts a new service
        import wandb

        wandb.teardown()


def remove_older(folder: Path, run_id: str, current: Path) -> None:
    """Delete earlier folders of one run id, so that a record published again is not there twice."""
    for path in folder.glob(f"*run-*-{run_id}*"):
        # W&B appends a number to the folder's name where one second sees two runs of an id.
        is_same = re.fullmatch(rf"(offline-)?run-\d+_\d+-{re.escape(run_id)}", path.name)
        is_same = is_same or (path / f"run-{run_id}.wandb").is_file()
        if is_same and path.is_dir() and not path.is_symlink() and path.resolve() != current.resolve():
            shutil.rmtree(path, ignore_errors=True)


def charts(records: Sequence[Record], wandb: Any) -> dict[str, Any]:
    """Every quality quantity over the ratio, a line per technique, that W&B draws without any editing."""
    declared = quantities_of(records)
    return {
        f"curves/{name}": wandb.plot.line_series(
            xs=[[x for x, _ in points] for points in lines.values()],
            ys=[[y for _, y in points] for points in lines.values()],
            keys=list(lines),
            title=declared[name].title,
            xname="ratio",
        )
        for name, lines in curves_over_ratio(records).items()
    }
