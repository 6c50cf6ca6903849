"""One job: the order of its steps, and nothing else."""

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from slimsweep.errors import MetricError, StoreError
from slimsweep.evaluation.base import Measurement, Metric, Reader, together
from slimsweep.evaluation.quantity import as_plain
from slimsweep.linear.base import linear_forms
from slimsweep.models.anatomy import shapes_digest
from slimsweep.models.language_model import LanguageModel, parameter_count, weights_digest
from slimsweep.models.placement.loading import has_room
from slimsweep.models.storage.saved_model import save
from slimsweep.pipeline.beside_base import base_of, keep_bases, reader_of, reading_along
from slimsweep.pipeline.chain import Compressed, compress, load
from slimsweep.pipeline.experiment import Asked, Experiment
from slimsweep.pipeline.keys import digest_of
from slimsweep.records.provenance import device_name, git_commit, machine, version
from slimsweep.records.record import measurement, ordered
from slimsweep.records.store import Store

log = logging.getLogger(__name__)

PACKAGES = (
    *("slimsweep", "torch", "transformers", "bitsandbytes", "compressed-tensors", "datasets", "lm-eval", "numpy"),
    *("numba", "hydra-core", "wandb"),
)
NO_ROOM = "memory has no room for the dense model beside this one"
SAME_SHAPE = "every layer has its original shape and storage, so dense kernels take the same time"
META = "depends on data or weights, and only shapes were loaded (model.weights=meta)"
REASONS = {
    "ratio": "no stage has a ratio",
    "before_key": "no stage trains",
    "seed": "nothing in this experiment is drawn by chance",
    "pattern": "no stage has a pattern",
    "baseline": "the weights as published",
    "model_revision": "this source has no revision",
    "weights_digest": META,
    "git_commit": "not run from a git checkout",
    "sweep": "run on its own",
}
"""Reasons why a field that is no measurement is null."""


def run(experiment: Experiment, store: Store, missing: dict[str, Asked], save_to: Path | None = None) -> None:
    """Run one checked experiment: compress, write what is known of the model, measure what is `missing`, save.

    Each measurement is written as soon as it is made. Where the model has a record already, that keeps what it says of
    the model.

    Raises:
        StoreError: the model came out with other weights than its record has.
    """
    before = store.model(experiment.key)
    keep_bases(experiment, missing)
    done = compress(experiment)  # load or restore, calibrate, stage 1 .. stage n
    model = describe(experiment, done)
    if before:
        refuse_other_weights(before, model)
    if before is None or store.layers(experiment.key) is None:
        store.begin(before or model, done.layers)
    for one in measure(experiment, store, done.model, missing):
        store.keep(experiment.key, one)
    if save_to:
        save(done.model, save_to)


def refuse_other_weights(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise StoreError where a model that is made again is not the one that was measured."""
    if before["weights_digest"] != now["weights_digest"]:
        raise StoreError(
            f"record {before['key'][:8]} is of other weights than this run makes: it ran with {before['threads']} "
            f"threads on {before['device']} at commit {before['git_commit']}, this one with {now['threads']} on "
            f"{now['device']}. Run it where it ran, or give this run an outputs_dir of its own."
        )


def borrowed(experiment: Experiment, store: Store, missing: dict[str, Asked]) -> list[dict[str, Any]]:
    """Missing measurements that a model of equal shapes gives; none where this model has no record yet."""
    model = store.model(experiment.key)
    if model is None or experiment.fresh:
        return []
    found = (_shared(experiment, store, asked, identity, model["shapes_digest"]) for identity, asked in missing.items())
    return [one for one in found if one]


def measure(
    experiment: Experiment, store: Store, model: LanguageModel, missing: dict[str, Asked]
) -> Iterator[dict[str, Any]]:
    """Measure what is missing, one by one; what depends on shapes alone is taken over where it is known."""
    shapes, along = shapes_digest(model), reading_along(experiment, missing)
    waiting = {identity for identities in along.values() for identity in identities}
    for identity, asked in missing.items():
        if identity in waiting:  # measured by the forward of another
            continue
        if not experiment.fresh and (known := _shared(experiment, store, asked, identity, shapes)):
            log.info("%s: as measured of record %s, which has the same shapes", asked.name, known["source"][:8])
            yield known
            continue
        readers = {other: reader_of(experiment, missing[other], model) for other in along.get(identity, [])}
        log.info("%s: measuring", ", ".join(missing[one].name for one in (identity, *readers)))
        started = time.perf_counter()
        result = _result(experiment, model, asked, list(readers.values()))
        seconds = time.perf_counter() - started - sum(reader.seconds for reader in readers.values())
        one = _kept(experiment, asked, identity, result, seconds)
        if place := _place(experiment, asked, identity, shapes):
            store.share(place, one | {"outcomes": {}}, experiment.key)
        yield one
        for other, reader in readers.items():
            yield _kept(experiment, missing[other], other, reader.result(), reader.seconds)


def measure_alone(experiment: Experiment, model: LanguageModel, identity: str, asked: Asked) -> dict[str, Any]:
    """One measurement of a model by a forward of its own; nothing is taken over from another model."""
    log.info("%s: measuring", asked.name)
    started = time.perf_counter()
    result = _result(experiment, model, asked, [])
    return _kept(experiment, asked, identity, result, time.perf_counter() - started)


def _result(experiment: Experiment, model: LanguageModel, asked: Asked, readers: list[Reader]) -> Measurement:
    """Measure one metric, with what stands beside the dense model, and let readers look at its logits."""
    metric, further = asked.metric, [base_of(experiment)] if asked.metric.needs_base else []
    result = metric.measure(model, experiment.corpora, *further, *([readers] if readers else []))
    return _compared(experiment, model, metric, result) if metric.compared else result


def _kept(experiment: Experiment, asked: Asked, identity: str, result: Measurement, seconds: float) -> dict[str, Any]:
    """A measurement as the store keeps it."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return measurement(asked.name, identity, asked.content, result, seconds, created) | {
        "ran_on": ran_on(experiment),
        "quantities": declared(asked, result),
    }


def declared(asked: Asked, result: Measurement) -> dict[str, dict[str, Any]]:
    """Quantities of a metric as plain values, by field.

    Raises:
        MetricError: the metric measured a field that it does not declare.
    """
    quantities = as_plain(asked.metric.quantities())
    if unknown := [name for name in result.values if name not in quantities]:
        raise MetricError(
            f"metric {asked.name} measured {', '.join(unknown)}, but its quantities() declares "
            f"{', '.join(quantities) or 'nothing'}: give each field it measures a Quantity"
        )
    return quantities


def _shared(experiment: Experiment, store: Store, asked: Asked, identity: str, shapes: str) -> dict[str, Any] | None:
    place = _place(experiment, asked, identity, shapes)
    known = store.shared(place) if place else None
    return None if known is None or known["source"] == experiment.key else known | {"name": asked.name}


def _place(experiment: Experiment, asked: Asked, identity: str, shapes: str) -> str | None:
    """Digest of all that decides a measurement of shapes and machine; None where weights decide it too."""
    if asked.metric.depends_on_values or experiment.model.weights == "meta":
        return None
    dense = {name: experiment.config["model"].get(name) for name in ("name", "path", "id", "shape")}
    dense |= {"dtype": experiment.resolved_dtype}
    return digest_of({"metric": identity, "shapes": shapes, "dense": dense, "machine": ran_on(experiment)})


def ran_on(experiment: Experiment) -> dict[str, Any]:
    """Machine and placement of weights, on which a time or a peak of memory depends beside the model."""
    how = {"offload": experiment.offload, "is_mapped": bool(experiment.memory_budget)}
    return machine(experiment.resolved_device) | how


def is_stale(experiment: Experiment, asked: Asked, known: dict[str, Any]) -> bool:
    """Whether a speed or peak of memory is to be measured again: asked for afresh, or its weights rested elsewhere."""
    if asked.metric.depends_on_values:
        return False
    now, then = ran_on(experiment), known.get("ran_on") or {}
    return experiment.fresh or any(then.get(name, now[name]) != now[name] for name in ("offload", "is_mapped"))


def _is_other(experiment: Experiment, model: LanguageModel) -> bool:
    """Whether a forward takes other work than the dense model's: in other shapes, forms or dtype."""
    is_smaller = parameter_count(model.module) != model.original_parameters
    return is_smaller or bool(linear_forms(model.module)) or model.dtype != getattr(torch, experiment.resolved_dtype)


def _compared(experiment: Experiment, model: LanguageModel, metric: Metric, result: Measurement) -> Measurement:
    """A result, and beside it what only shows beside the dense model, which is loaded once more."""
    reason = ""
    if not _is_other(experiment, model):
        reason = SAME_SHAPE
    elif experiment.memory_budget or not _has_room_for_dense(experiment, model):
        reason = NO_ROOM
    if reason:
        beside = Measurement(dict.fromkeys(metric.compared), dict.fromkeys(metric.compared, reason))
    else:
        log.info("speed-up: measuring beside the dense model")
        beside = metric.compare(load(experiment).model, model)
    return together([result, beside])


def _has_room_for_dense(experiment: Experiment, model: LanguageModel) -> bool:
    resting = next(model.blocks[0].parameters()).device
    return has_room(model.original_parameters, getattr(torch, experiment.resolved_dtype), resting)


def describe(experiment: Experiment, done: Compressed) -> dict[str, Any]:
    """Fields of a record that are no measurement: the choices, times, provenance and settings."""
    model, ratios = done.model, experiment.ratios
    values = {
        "key": experiment.key,
        "base_key": experiment.base.key,
        "before_key": experiment.before_training.key if experiment.before_training else None,
        "model": experiment.model.name,
        "model_revision": experiment.model.resolved_revision,
        "baseline": experiment.model.described_baseline or None,
        "weights": experiment.model.weights,
        "technique": experiment.chain,
        "pattern": experiment.pattern,
        "ratio": ratios[0] if len(ratios) == 1 else None,
        "seed": experiment.seed if experiment.uses_seed else None,
        "device": device_name(experiment.resolved_device),
        "dtype": experiment.resolved_dtype,
        "threads": torch.get_num_threads(),
        "load_seconds": done.load_seconds,
        "compress_seconds": done.compress_seconds,
        "compress_spent_seconds": done.spent_seconds,
        "weights_digest": None if model.is_meta else done.weights_digest or weights_digest(model),
        "shapes_digest": shapes_digest(model),
        "git_commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sweep": experiment.sweep,
        "versions": {name: version(name) for name in PACKAGES},
        "stages": done.stages,
        "choices": experiment.choices,
        "overrides": experiment.overrides,
        "config": experiment.config,
    }
    reasons = REASONS | ({"ratio": f"stages have different ratios: {ratios}"} if ratios else {})
    for metric in experiment.metrics.values():
        if not experiment.measures(metric):
            names = [one.field for one in metric.quantities()]
            values |= dict.fromkeys(names)
            reasons |= dict.fromkeys(names, META)
    return ordered(values, reasons)
