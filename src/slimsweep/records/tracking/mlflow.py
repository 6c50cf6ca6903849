"""Mirrors records to MLflow: files on this disk, or a server."""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from slimsweep.checks import is_number, refuse
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
    summary_of,
    training_curves,
    words,
)

log = logging.getLogger(__name__)

ID_TAG = "slimsweep.id"
"""Tag by which a run is found again: MLflow gives its runs random ids."""
RATIO_STEPS = 1000
"""Steps of a sweep's curves are thousandths of the ratio: MLflow's steps are whole numbers."""
BATCH = 500
"""Numbers of one request; MLflow takes at most 1000."""


@dataclass(frozen=True, kw_only=True)
class MLflow(Tracker):
    """One run per record and one per sweep. MLflow has no alerts; the tag `slimsweep.alerts` holds them."""

    needs: ClassVar[dict[str, str]] = {"mlflow": "slimsweep[mlflow]"}

    experiment: str = "slimsweep"
    uri: str | None = None
    """A server, or `file:FOLDER`; None: `mlruns` in the output folder. MLFLOW_TRACKING_URI wins over both."""

    def __post_init__(self) -> None:
        if self.uri and re.match(r"(?!file:)[\w+.-]+://.*@", self.uri):
            refuse(  # without the value, since messages are logged
                [
                    "tracker.mlflow.uri holds a user name or password, and settings are written to files: leave them "
                    "out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
                ]
            )

    def publish(self, record: Record, sweeps: list[str], outputs_dir: Path) -> bool:
        settings = config_of(record)
        axes = {name: value for name, value in settings.items() if name != "settings" and value is not None}
        run = _Run(
            id=run_id(record),
            name=" ".join(words(record)),
            tags={"sweeps": ", ".join(sweeps), "kind": "experiment"},
            parameters=axes,
            numbers=[*_curve_numbers(record), *((name, value, 0) for name, value in point_of(record).items())],
            documents={"record.json": summary_of(record), "settings.json": settings["settings"]},
        )
        return self._send(run, alerts_of(record, outputs_dir), outputs_dir)

    def publish_sweep(self, sweep: str, records: list[Record], figures: list[Path], outputs_dir: Path) -> bool:
        """Make a sweep's own run: the qualities of every technique over the ratio, and the figures."""
        numbers = [
            (f"{name}/{label}", value, round(ratio * RATIO_STEPS))
            for name, lines in curves_over_ratio(records).items()
            for label, points in lines.items()
            for ratio, value in points
        ]
        run = _Run(
            id=f"sweep-{sweep}",
            name=f"sweep {sweep}",
            tags={"sweeps": sweep, "kind": "sweep"},
            parameters={"sweep": sweep, "jobs": len(records)},
            numbers=numbers,
            documents={"keys.json": {"keys": [record["key"] for record in records]}},
            files=tuple(path for path in figures if path.suffix == ".png"),
        )
        return self._send(run, [], outputs_dir)

    def publish_failure(self, key: str, label: str, reason: str, outputs_dir: Path) -> bool:
        run = _Run(id=key[:ID_CHARACTERS], name=label, tags={"kind": "failure"}, parameters={"key": key})
        return self._send(run, [failure(label, reason)], outputs_dir, status="FAILED")

    def _send(self, run: "_Run", alerts: Sequence[Alert], outputs_dir: Path, status: str = "FINISHED") -> bool:
        """Make a run in place of an earlier one of its id. Whatever goes wrong becomes a warning."""
        try:
            client = self._client(outputs_dir)
            experiment = _experiment_id(client, self.experiment)
            older = client.search_runs([experiment], f"tags.`{ID_TAG}` = '{run.id}'")
            told = {"slimsweep.alerts": "; ".join(f"{one.title}: {one.text}" for one in alerts)} if alerts else {}
            tags = run.tags | told | {ID_TAG: run.id}
            made = client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            _fill(client, made, run)
            client.set_terminated(made, status)
            for one in older:
                client.delete_run(one.info.run_id)
        except Exception as error:  # whatever a third party raises, a finished job keeps its record
            reason = failure_text(error)
        else:
            return True
        log.warning("MLflow: %s (not mirrored)", reason)  # outside the handler, as in wandb.py
        return False

    def _client(self, outputs_dir: Path) -> Any:
        # Read when mlflow is imported, and when its file store is opened.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        # Else a run on a server prints its address among the lines and the JSON of a command.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or self.uri or (outputs_dir / "mlruns").resolve().as_uri()
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Content of one run."""

    id: str
    name: str
    tags: dict[str, str]
    parameters: dict[str, Any]
    numbers: Sequence[tuple[str, int | float, int]] = ()
    """Name, value and step."""
    documents: dict[str, Any] | None = None
    files: tuple[Path, ...] = ()


def _experiment_id(client: Any, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is not None:
        return known.experiment_id
    with suppress(Exception):  # another process may make it at the same moment
        return client.create_experiment(name)
    return client.get_experiment_by_name(name).experiment_id


def _fill(client: Any, run_id: str, run: _Run) -> None:
    from mlflow.entities import Metric, Param

    parameters = [Param(_name(name), str(value)) for name, value in run.parameters.items()]
    numbers = [Metric(_name(name), float(value), 0, step) for name, value, step in run.numbers if is_number(value)]
    client.log_batch(run_id, params=parameters)
    for start in range(0, len(numbers), BATCH):
        client.log_batch(run_id, metrics=numbers[start : start + BATCH])
    for name, content in (run.documents or {}).items():
        client.log_dict(run_id, content, name)
    for path in run.files:
        client.log_artifact(run_id, str(path), "figures")


def _curve_numbers(record: Record) -> list[tuple[str, int | float, int]]:
    """Loss curves of stages that trained, at their steps."""
    return [
        (f"{stage}/{name}", value, int(point.get("step", 0)))
        for stage, points in training_curves(record).items()
        for point in points
        for name, value in point.items()
        if name != "step"
    ]


def _name(name: str) -> str:
    """A name in the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name)
