"""One job: the order of the stages, and nothing else."""

import hashlib
import importlib.metadata
import logging
import math
import subprocess
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimsweep.evaluation.base import Metric
from slimsweep.evaluation.cost import zero_count
from slimsweep.experiment import Experiment, Stage
from slimsweep.models.language_model import LanguageModel, layer_shape, parameter_count
from slimsweep.models.loading import has_room
from slimsweep.models.reduced import save
from slimsweep.packed import packed_layers
from slimsweep.paths import is_checkout, project_root
from slimsweep.record import ordered

log = logging.getLogger(__name__)

PACKAGES = ("slimsweep", "torch", "transformers", "datasets", "lm-eval", "numpy", "numba", "hydra-core", "wandb")
NO_ROOM = "memory has no room for the dense model beside this one"
SAME_SHAPE = "every layer has its original shape and storage, so dense kernels take the same time"
META = "depends on data or weights, and only shapes were loaded (model.weights=meta)"


@dataclass
class Outcome:
    """What the steps of a job found, before it becomes a record."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)
    stages: list[dict] = field(default_factory=list)
    layers: list[dict] = field(default_factory=list)


def run(experiment: Experiment, save_to: Path | None = None) -> tuple[dict[str, Any], list[dict]]:
    """Run one checked experiment: load, calibrate, compress, measure, save. Returns its record and per-layer counts."""
    outcome = Outcome()
    torch.manual_seed(experiment.seed)
    model = load(experiment, outcome)
    token_ids = calibrate(experiment, model)
    compress(experiment, model, token_ids, outcome)
    measure(experiment, model, outcome)
    describe(experiment, model, outcome)
    if save_to:
        save(model, save_to)
    return ordered(outcome.values, outcome.reasons), outcome.layers


def load(experiment: Experiment, outcome: Outcome) -> LanguageModel:
    """Load the model's weights, or only its shapes for `model.weights=meta`."""
    started = time.perf_counter()
    model = experiment.model.load(
        dtype=getattr(torch, experiment.resolved_dtype),
        device=torch.device(experiment.resolved_device),
        offload=experiment.offload,
    )
    outcome.values["load_seconds"] = time.perf_counter() - started
    return model


def calibrate(experiment: Experiment, model: LanguageModel) -> torch.Tensor | None:
    """Token ids of the calibration text, shape [sequence token], or None where no stage looks at text."""
    if not experiment.needs_calibration or model.is_meta:
        return None
    return experiment.calibration.sample(model.tokenizer, experiment.corpora, experiment.seed)


def compress(experiment: Experiment, model: LanguageModel, token_ids: torch.Tensor | None, outcome: Outcome) -> None:
    """Apply the chain in order; after each stage the sparsity of every stage so far is measured again."""
    total, treated = 0.0, []
    for stage in experiment.stages:
        log.info("%s: compressing", stage.name)
        started = time.perf_counter()
        before = model.targets()
        report = stage.technique.apply(model, token_ids, experiment.seed)
        seconds = time.perf_counter() - started
        total += seconds
        outcome.layers.append({"stage": stage.name, "layers": [asdict(layer) for layer in report.layers]})
        outcome.stages.append(_stage_entry(stage, report, seconds))
        now = _places(before, model.targets())
        treated.append({layer.name for layer in report.layers})
        treated = [{now[name] for name in layers if name in now} for layers in treated]
        for entry, layers in zip(outcome.stages, treated, strict=True):
            entry["sparsity_after"][stage.name] = _sparsity(model, layers)
    outcome.values["compress_seconds"] = total


def _stage_entry(stage: Stage, report: Any, seconds: float) -> dict[str, Any]:
    weights = sum(layer.weights for layer in report.layers)
    zeros = sum(layer.zeros for layer in report.layers)
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(stage.technique).items()}
    return {
        "name": stage.name,
        "technique": stage.label,
        "version": type(stage.technique).version,
        "fields": fields,
        "seconds": seconds,
        "layers": len(report.layers),
        "weights": weights,
        "zeros": zeros,
        "sparsity": zeros / weights if weights else None,
        "sparsity_after": {},
        "notes": report.notes,
    }


def _places(before: dict[str, nn.Module], after: dict[str, nn.Module]) -> dict[str, str]:
    """Where each layer is after a stage: under another name where blocks were renumbered, absent where it is gone.

    A packed layer is another module than the one whose place and name it took.
    """
    names = {id(layer): name for name, layer in after.items()}
    known = {id(layer) for layer in before.values()}
    replaced = {name: name for name in before if name in after and id(after[name]) not in known}
    return replaced | {name: names[id(layer)] for name, layer in before.items() if id(layer) in names}


def _sparsity(model: LanguageModel, layers: set[str]) -> float | None:
    """Measured fraction of zeros in what is left of some layers; on shapes alone, the planned one."""
    targets = {name: linear for name, linear in model.targets().items() if name in layers}
    weights = sum(math.prod(layer_shape(linear)) for linear in targets.values())
    zeros = sum(zero_count(model, name, linear) for name, linear in targets.items())
    return zeros / weights if weights else None


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
    if not model.is_meta and _is_other(model):
        compare(experiment, model, outcome)


def _is_other(model: LanguageModel) -> bool:
    """Whether a forward takes other work than that of the dense model: layers of other shapes, or packed ones."""
    return parameter_count(model.module) != model.original_parameters or bool(packed_layers(model.module))


def compare(experiment: Experiment, model: LanguageModel, outcome: Outcome) -> None:
    """Measure what only shows beside the dense model, which is loaded once more."""
    metrics = [metric for metric in experiment.metrics.values() if type(metric).compare is not Metric.compare]
    if not metrics:
        return
    resting = next(model.blocks[0].parameters()).device
    if not has_room(model.original_parameters, model.module, resting):
        outcome.reasons |= dict.fromkeys(("speedup_prefill", "speedup_decode"), NO_ROOM)
        return
    log.info("speed-up: measuring beside the dense model")
    dense = load(experiment, Outcome())
    for metric in metrics:
        measured = metric.compare(dense, model)
        outcome.values |= measured.values
        outcome.reasons |= measured.reasons
        outcome.protocols |= measured.protocols


def describe(experiment: Experiment, model: LanguageModel, outcome: Outcome) -> None:
    """Add what was asked for and where it ran: the axes, provenance and the settings."""
    ratios = experiment.ratios
    outcome.values |= {
        "key": experiment.key,
        "model": experiment.model.name,
        "model_revision": experiment.model.resolved_revision,
        "baseline": experiment.model.baseline or None,
        "weights": experiment.model.weights,
        "technique": experiment.chain,
        "pattern": experiment.pattern,
        "ratio": ratios[0] if len(ratios) == 1 else None,
        "seed": experiment.seed if experiment.uses_seed else None,
        "device": _device_name(experiment.resolved_device),
        "dtype": experiment.resolved_dtype,
        "threads": torch.get_num_threads(),
        "weights_digest": None if model.is_meta else weights_digest(model),
        "git_commit": git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sweep": experiment.sweep,
        "versions": {name: _version(name) for name in PACKAGES},
        "protocols": outcome.protocols,
        "stages": outcome.stages,
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
    for name in ("speedup_prefill", "speedup_decode"):
        if outcome.values.setdefault(name) is None:
            reason = META if model.is_meta else "not measured by this evaluation" if _is_other(model) else SAME_SHAPE
            outcome.reasons.setdefault(name, reason)


def weights_digest(model: LanguageModel) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def git_commit() -> str | None:
    """Commit of the checkout this runs from, `+` appended where files differ from it; None outside one."""
    if not is_checkout():
        return None
    git = ["git", "-C", str(project_root())]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
