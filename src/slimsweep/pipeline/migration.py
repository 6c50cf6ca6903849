"""Records of versions whose keys held module paths and the evaluation, rewritten under today's keys, once."""

import dataclasses
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsweep.errors import SlimsweepError
from slimsweep.evaluation.base import Measurement, Metric
from slimsweep.paths import config_root
from slimsweep.pipeline.compose import FORMER_KNOBS, knobs_of
from slimsweep.pipeline.keys import digest_of, metric_identity, model_key
from slimsweep.pipeline.rebuild import composed
from slimsweep.pipeline.run import SPEED_UPS
from slimsweep.pipeline.stage_cache.cache import limit_of
from slimsweep.records.record import measurement, ordered
from slimsweep.records.store import Store, SweepJob

log = logging.getLogger(__name__)

FORMER_METRIC_VERSION = 1
"""Of every metric when records had no identities."""


@dataclass(frozen=True)
class Migrated:
    """What became of the older records of a folder."""

    keys: dict[str, str]
    """New key by the old one."""
    left: dict[str, str]
    """Why others could not be rewritten, by key."""


def migrate(store: Store, data_dir: Path | None) -> Migrated:
    """Rewrite every older record of a folder and the lists of its sweeps; what was measured stays as it was.

    A record keeps `previous_key`, under which it stays the run it was on a tracker. One whose weights or texts are not
    there any more keeps its old key, and tables and figures go on reading it.
    """
    keys, left = {}, {}
    asked: dict[str, list[str]] = {}
    for record in store.records():
        if "identities" in record:
            continue
        try:
            new = _rewritten(store, record, data_dir)
        except (SlimsweepError, KeyError) as error:
            left[record["key"]] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        keys[record["key"]] = new["key"]
        asked[new["key"]] = list(dict.fromkeys(new["identities"].values()))
    for name in store.sweep_names():
        jobs = store.sweep_jobs(name)
        if any(job.key in keys for job in jobs):
            renewed = [
                SweepJob(keys.get(job.key, job.key), job.label, job.overrides, asked.get(keys.get(job.key, ""), []))
                for job in jobs
            ]
            is_complete = (store.sweeps_dir / name / ".complete").is_file()
            store.open_sweep(name, renewed)
            if is_complete:
                store.close_sweep(name, renewed)
    return Migrated(keys, left)


def _rewritten(store: Store, record: dict[str, Any], data_dir: Path | None) -> dict[str, Any]:
    """Write an older record under its new key and remove it under the old one."""
    now = todays(record)
    cache = store.outputs_dir / "cache"
    own = {"cache_dir": str(cache), "cache_limit_gb": limit_of(cache / "stages") / 1e9}
    own |= {"outputs_dir": str(store.outputs_dir), "data_dir": str(data_dir) if data_dir else None}
    experiment = composed(now, own)
    versions = [stage["version"] for stage in record["stages"]]
    measured, fields = [], set(SPEED_UPS)
    for name, metric in experiment.metrics.items():
        for part in metric.parts() if experiment.measures(metric) else []:
            content = metric_identity(part, experiment.corpora) | {"version": FORMER_METRIC_VERSION}
            names = [*part.fields(), *(SPEED_UPS if type(part).compare is not Metric.compare else ())]
            fields |= set(names)
            result = Measurement(
                {field: record.get(field) for field in names},
                {field: record["reasons"][field] for field in names if field in record["reasons"]},
                {field: record["protocols"][field] for field in names if field in record["protocols"]},
            )
            seconds = record["evaluate_seconds"] or 0.0 if not measured else 0.0  # only their sum was kept
            measured.append(measurement(name, digest_of(content), content, result, seconds, record["created"]))
    values = {name: value for name, value in now.items() if name not in fields | {"reasons", "protocols"}}
    values |= {"key": model_key(experiment, versions), "previous_key": record["key"]}
    values |= {"base_key": model_key(dataclasses.replace(experiment, stages=())), "shapes_digest": None}
    reasons = {name: reason for name, reason in record["reasons"].items() if name not in fields}
    reasons |= {"shapes_digest": "made by a version that did not note it"}
    model = ordered(values, reasons)
    new = store.add(model, store.layers(record["key"]), measured, [one["identity"] for one in measured])
    before, after = store.folder(record["key"]), store.folder(new["key"])
    for name in ("job.log", "model"):
        if (before / name).exists() and not (after / name).exists():
            shutil.move(before / name, after / name)
    shutil.rmtree(before)
    return new


def todays(record: dict[str, Any]) -> dict[str, Any]:
    """An older record with choices instead of targets, and today's words for its knobs."""
    config = dict(record["config"])
    technique = {name: _knobs(fields) for name, fields in (config.get("technique") or {}).items()}
    metrics = {name: _without_target(fields) for name, fields in config["evaluation"]["metrics"].items()}
    choices = {
        "model": _model_choice(record),
        "calibration": _stem(config["calibration"]),
        "technique": {stage["name"]: stage["technique"] for stage in record["stages"]},
        "metric": {name: _stem(fields) for name, fields in config["evaluation"]["metrics"].items()},
    }
    config |= {name: _without_target(config[name]) for name in ("model", "calibration")}
    config |= {"technique": technique, "evaluation": config["evaluation"] | {"metrics": metrics}}
    stages = [stage | {"fields": _renamed(stage["fields"], stage["technique"])} for stage in record["stages"]]
    return record | {"config": config, "choices": choices, "overrides": [], "stages": stages}


def _knobs(fields: dict[str, Any]) -> dict[str, Any]:
    return _renamed(_without_target(fields), _stem(fields))


def _renamed(fields: dict[str, Any], technique: str) -> dict[str, Any]:
    """Knobs by today's words, where the technique has these."""
    known = knobs_of(technique)
    return {
        FORMER_KNOBS[name] if FORMER_KNOBS.get(name) in known and name not in known else name: value
        for name, value in fields.items()
    }


def _without_target(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "_target_"}


def _stem(fields: dict[str, Any]) -> str:
    """Stem of the file behind a target."""
    return fields["_target_"].split(".")[-2]


def _model_choice(record: dict[str, Any]) -> str:
    """The YAML that a model was chosen by, where its name tells; else the stem of its source."""
    file = config_root() / "conf" / "model" / f"{record['model']}.yaml"
    return record["model"] if file.is_file() else _stem(record["config"]["model"])
