"""One job: the order of the stages, and nothing else."""

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from slimsweep.compression import Compressed, compress, load
from slimsweep.evaluation.base import Metric
from slimsweep.experiment import Experiment
from slimsweep.models.language_model import LanguageModel, parameter_count, weights_digest
from slimsweep.models.loading import has_room
from slimsweep.models.reduced import save
from slimsweep.packed import packed_layers
from slimsweep.provenance import device_name, git_commit, version
from slimsweep.record import ordered

log = logging.getLogger(__name__)

PACKAGES = (
    *("slimsweep", "torch", "transformers", "bitsandbytes", "compressed-tensors", "datasets", "lm-eval", "numpy"),
    *("numba", "hydra-core", "wandb"),
)
NO_ROOM = "memory has no room for the dense model beside this one"
SAME_SHAPE = "every layer has its original shape and storage, so dense kernels take the same time"
META = "depends on data or weights, and only shapes were loaded (model.weights=meta)"


@dataclass
class Outcome:
    """What the steps of a job found, before it becomes a record."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)


def run(experiment: Experiment, save_to: Path | None = None) -> tuple[dict[str, Any], list[dict]]:
    """Run one checked experiment: compress, measure, save. Returns its record and per-layer counts."""
    outcome = Outcome()
    done = compress(experiment)  # load or restore, calibrate, stage 1 .. stage n
    measure(experiment, done.model, outcome)
    describe(experiment, done, outcome)
    if save_to:
        save(done.model, save_to)
    return ordered(outcome.values, outcome.reasons), done.layers


def measure(experiment: Experiment, model: LanguageModel, outcome: Outcome) -> None:
    """Measure everything the evaluation asks for; what shapes alone cannot tell is null with the reason."""
    started = time.perf_counter()
    for name, metric in experiment.metrics.items():
        if not experiment.measures(metric):
            outcome.reasons |= dict.fromkeys(metric.fields(), META)
            outcome.values |= dict.fromkeys(metric.fields())
            continue
        log.info("%s: measuring", name)
        measured = metric.measure(model, experiment.corpora)
        outcome.values |= measured.values
        outcome.reasons |= measured.reasons
        outcome.protocols |= measured.protocols
    outcome.values["evaluate_seconds"] = time.perf_counter() - started
    if not model.is_meta and _is_other(experiment, model):
        compare(experiment, model, outcome)


def _is_other(experiment: Experiment, model: LanguageModel) -> bool:
    """Whether a forward takes other work than the dense model's: in other shapes or another dtype, or packed."""
    is_smaller = parameter_count(model.module) != model.original_parameters
    return is_smaller or bool(packed_layers(model.module)) or model.dtype != getattr(torch, experiment.resolved_dtype)


def compare(experiment: Experiment, model: LanguageModel, outcome: Outcome) -> None:
    """Measure what only shows beside the dense model, which is loaded once more."""
    metrics = [metric for metric in experiment.metrics.values() if type(metric).compare is not Metric.compare]
    if not metrics:
        return
    if experiment.memory_budget:
        outcome.reasons |= dict.fromkeys(("speedup_prefill", "speedup_decode"), NO_ROOM)
        return
    resting = next(model.blocks[0].parameters()).device
    if not has_room(model.original_parameters, getattr(torch, experiment.resolved_dtype), resting):
        outcome.reasons |= dict.fromkeys(("speedup_prefill", "speedup_decode"), NO_ROOM)
        return
    log.info("speed-up: measuring beside the dense model")
    dense = load(experiment).model
    for metric in metrics:
        measured = metric.compare(dense, model)
        outcome.values |= measured.values
        outcome.reasons |= measured.reasons
        outcome.protocols |= measured.protocols


def describe(experiment: Experiment, done: Compressed, outcome: Outcome) -> None:
    """Add what was asked for, what it took and where it ran: the axes, times, provenance and the settings."""
    model, ratios = done.model, experiment.ratios
    outcome.values |= {
        "key": experiment.key,
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
        "git_commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sweep": experiment.sweep,
        "versions": {name: version(name) for name in PACKAGES},
        "protocols": outcome.protocols,
        "stages": done.stages,
        "config": experiment.config,
    }
    outcome.reasons |= {
        "ratio": f"stages have different ratios: {ratios}" if ratios else "no stage has a ratio",
        "seed": "nothing in this experiment is drawn by chance",
        "pattern": "no stage has a pattern",
        "baseline": "the weights as published",
        "model_revision": "this source has no revision",
        "weights_digest": META,
        "git_commit": "not run from a git checkout",
        "sweep": "run on its own",
    }
    unmeasured = "not measured by this evaluation" if _is_other(experiment, model) else SAME_SHAPE
    for name in ("speedup_prefill", "speedup_decode"):
        if outcome.values.setdefault(name) is None:
            outcome.reasons.setdefault(name, META if model.is_meta else unmeasured)
