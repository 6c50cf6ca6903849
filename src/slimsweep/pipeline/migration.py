"""Records of versions whose keys held module paths and the evaluation, rewritten under today's keys, once."""

import dataclasses
import re
import shutil
from dataclasses import dataclass
from typing import Any

from slimsweep.errors import SlimsweepError, StoreError
from slimsweep.evaluation.base import Measurement
from slimsweep.evaluation.quantity import as_plain
from slimsweep.paths import NO_FOLDERS, OwnFolders, config_root
from slimsweep.pipeline.compose import FORMER_KNOBS, knobs_of
from slimsweep.pipeline.experiment import Experiment
from slimsweep.pipeline.keys import digest_of, metric_identity, model_key
from slimsweep.pipeline.rebuild import composed
from slimsweep.pipeline.stage_cache.cache import limit_of
from slimsweep.pipeline.sweep import joined
from slimsweep.records.record import measurement, ordered
from slimsweep.records.store import Store, SweepJob

FORMER_METRIC_VERSION = 1
"""Version of every metric at the time when records had no identities."""


@dataclass(frozen=True)
class Migrated:
    """Outcome of a migration."""

    keys: dict[str, str]
    """New key by the old one."""
    left: dict[str, str]
    """Reasons why other records could not be rewritten, by key."""


def migrate(store: Store, folders: OwnFolders = NO_FOLDERS) -> Migrated:
    """Rewrite every older record of a folder and the lists of its sweeps; what was measured stays as it was.

    A record keeps `previous_key`, under which it stays the run it was on a tracker. One whose weights or texts are not
    there any more keeps its old key, and tables and figures go on reading it. Interrupted, it goes on from there.
    """
    keys: dict[str, str] = {}
    left: dict[str, str] = {}
    for record in store.records():
        if "identities" not in record:
            try:
                keys[record["key"]] = _rewritten(store, record, folders)
            except (SlimsweepError, KeyError, TypeError) as error:
                left[record["key"]] = f"{type(error).__name__}: {error}".splitlines()[-1].strip(" -")
    _renew_sweeps(store)
    return Migrated(keys, left)


def _renew_sweeps(store: Store) -> None:
    """Give the lists of sweeps the new keys of all records that were ever rewritten, with what was measured of them."""
    known: dict[str, tuple[str, list[str]]] = {}
    for record in store.records():
        for old, measured in record.get("previous_measurements", {}).items():
            known[old] = (record["key"], measured)
    for name in store.sweep_names():
        jobs = store.sweep_jobs(name)
        if not any(job.key in known for job in jobs):
            continue
        renewed = [
            SweepJob(known[job.key][0], job.label, job.overrides, known[job.key][1]) if job.key in known else job
            for job in jobs
        ]
        is_complete = (store.sweeps_dir / name / ".complete").is_file()
        store.open_sweep(name, list(joined(renewed)))
        if is_complete:
            store.close_sweep(name, list(joined(renewed)))


def _rewritten(store: Store, record: dict[str, Any], folders: OwnFolders) -> str:
    """Write an older record under its new key, remove it under the old one, and return the new key.

    Several older records may be one model, measured by other protocols: they become one record.

    Raises:
        StoreError: a text is not the one that was measured, or another record of this model has other weights.
    """
    now = todays(record)
    cache = store.outputs_dir / "cache"
    own = {"cache_dir": str(cache), "cache_limit_gb": limit_of(cache / "stages") / 1e9}
    own |= {"outputs_dir": str(store.outputs_dir), "data_dir": str(folders.data_dir) if folders.data_dir else None}
    experiment = composed(now, own, folders.config_dir)
    measured, fields = _measurements(record, experiment)
    values = {name: value for name, value in now.items() if name not in fields | {"reasons", "protocols"}}
    key = model_key(experiment, [stage["version"] for stage in record["stages"]])
    before = store.model(key)
    if before and before["weights_digest"] != record["weights_digest"]:
        raise StoreError(f"record {before['key'][:8]} of the same model has other weights")
    identities = [one["identity"] for one in measured]
    earlier = before["previous_measurements"] if before and "previous_measurements" in before else {}
    values |= {"key": key, "previous_key": before["previous_key"] if earlier else record["key"]}
    values |= {"previous_measurements": earlier | {record["key"]: identities}, "shapes_digest": None}
    values |= {"base_key": model_key(dataclasses.replace(experiment, stages=()))}
    reasons = {name: reason for name, reason in record["reasons"].items() if name not in fields}
    reasons |= {"shapes_digest": "made by a version that did not note it"}
    store.begin(ordered(values, reasons), store.layers(record["key"]) or [])
    for one in measured:
        store.keep(key, one)
    store.finish(key, identities)
    old, new = store.folder(record["key"]), store.folder(key)
    for name in ("job.log", "model"):
        if (old / name).exists() and not (new / name).exists():
            shutil.move(old / name, new / name)
    shutil.rmtree(old)
    return key


def _measurements(record: dict[str, Any], experiment: Experiment) -> tuple[list[dict[str, Any]], set[str]]:
    """Measurements of an older record, and the fields that were measured."""
    measured, fields = [], set()
    for name, metric in experiment.metrics.items():
        for part in metric.parts() if experiment.measures(metric) else []:
            content = metric_identity(part, experiment.corpora) | {"version": FORMER_METRIC_VERSION}
            quantities = as_plain(part.quantities())
            names = list(quantities)
            fields |= set(names)
            protocols = {field: record["protocols"][field] for field in names if field in record["protocols"]}
            _refuse_other_texts(content["digests"], protocols)
            result = Measurement(
                {field: record.get(field) for field in names},
                {field: record["reasons"][field] for field in names if field in record["reasons"]},
                protocols,
            )
            seconds = record["evaluate_seconds"] or 0.0 if not measured else 0.0  # only their sum was kept
            one = measurement(name, digest_of(content), content, result, seconds, record["created"])
            measured.append(one | {"quantities": quantities})
    return measured, fields


def _refuse_other_texts(digests: dict[str, str], protocols: dict[str, str]) -> None:
    """Raise StoreError where the text that is read now is not the one that a protocol names."""
    for field, protocol in protocols.items():
        found = re.search(r"sha=(\w+)$", protocol)
        if found and digests and not any(digest.startswith(found[1]) for digest in digests.values()):
            raise StoreError(f"{field} was measured on another text (sha={found[1]}) than the one that is read now")


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
    if fields.get("bits", 0) is None:  # these decided nothing, and have other defaults now
        fields = {name: value for name, value in fields.items() if name not in ("group_size", "grid")}
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
