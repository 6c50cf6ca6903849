"""From an experiment to its compressed model: the longest known part of its chain restored, the rest computed."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.errors import ModelError, StageError
from slimsweep.linear.base import has_single_weights, weight_2d
from slimsweep.linear.mask import mark_zeros
from slimsweep.models.batches import Batch
from slimsweep.models.language_model import LanguageModel, weights_digest
from slimsweep.models.skeleton import Skeleton
from slimsweep.pipeline import memory_plan
from slimsweep.pipeline.experiment import Experiment, Stage
from slimsweep.pipeline.keys import StageKey, digest_of, stage_keys
from slimsweep.pipeline.stage_cache import side_folders
from slimsweep.pipeline.stage_cache.cache import StageCache
from slimsweep.pipeline.stage_cache.entry import written_digest
from slimsweep.pipeline.stage_cache.statistics import StatisticsCache
from slimsweep.pipeline.stage_report import account_of, described, places, sparsity
from slimsweep.records.provenance import computed_on

log = logging.getLogger(__name__)


@dataclass
class Compressed:
    """A model, and what the stages that it went through did."""

    model: LanguageModel
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Field `stages` of the record."""
    layers: list[dict[str, Any]] = field(default_factory=list)
    """The counts of every layer each stage treated."""
    treated: list[set[str]] = field(default_factory=list)
    """The layers that each stage treated, by the names they have now."""
    weights_digest: str | None = None
    """Digest of the model's weights at this point of the chain; None where the stage cache does not have it."""
    load_seconds: float = 0.0
    """Time to read the dense model, or the model of a cached stage in its place."""
    spent_seconds: float = 0.0
    """Time that this job spent on restoring, computing and caching stages; waiting for other processes is left out."""

    @property
    def compress_seconds(self) -> float:
        """Seconds of the whole chain: each stage as long as it took when it was computed."""
        return sum((stage["seconds"] for stage in self.stages), 0.0)


def compress(experiment: Experiment) -> Compressed:
    """The model of an experiment after its chain.

    The dense model is loaded only where no stage can be restored. Every stage begins with the experiment's seed, so
    that it draws the same whether those before it were computed or not.
    """
    cache = cache_of(experiment)
    keys = stage_keys(experiment) if cache or experiment.needs_data else []
    done = _longest(experiment, keys, cache) if cache else None
    batches, unkept = None, 0.0
    for position in range(len(done.stages) if done else 0, len(experiment.stages)):
        with cache.claim(keys[position]) if cache else contextlib.nullcontext():
            # Another process may have computed it while this one waited.
            if cache and (restored := _restored(experiment, keys[position], position + 1, cache, done)):
                done, unkept = restored, 0.0
                continue
            done = done or load(experiment)
            stage, upstream = experiment.stages[position], done.weights_digest
            if batches is None and stage.technique.requirements.calibration:
                batches = calibrate(experiment, done.model)
            context = StageContext(
                batches,
                experiment.seed,
                statistics=StatisticsCache(cache, keys[position]) if cache else None,
                data=experiment.training_set if stage.technique.requirements.data else None,
                teacher=teacher_of(experiment, stage, done.model),
                predicted_bytes=experiment.training_bytes.get(stage.name),
                work_dir=checkpoints(experiment, keys[position]) if stage.technique.requirements.data else None,
                teacher_dir=teacher_dir(experiment, position) if cache else None,
            )
            with side_folders.held(context.work_dir):
                apply(experiment, stage, context, done)
                unkept += done.stages[-1]["seconds"]
                if cache and _keep(cache, keys[position], done, unkept, upstream):
                    unkept = 0.0
    done = done or load(experiment)
    torch.manual_seed(experiment.seed)
    return done


def teacher_of(experiment: Experiment, stage: Stage, model: LanguageModel) -> Callable[[], LanguageModel] | None:
    """Loader of the frozen teacher of a stage; None where it has none."""
    asked = stage.technique.requirements.teacher
    if asked is None:
        return None
    if asked == "chain":
        return model.copy
    if asked == "base":
        return lambda: compress(experiment.base).model
    source = experiment.teachers[stage.name]
    dtype, device = getattr(torch, experiment.resolved_dtype), torch.device(experiment.resolved_device)
    return lambda: source.load(dtype=dtype, device=device, offload=False)


def teacher_dir(experiment: Experiment, position: int) -> Path | None:
    """Folder for what the teacher of a stage says, named by the teacher's identity; None where it has none."""
    stage = experiment.stages[position]
    asked = stage.technique.requirements.teacher
    if asked is None:
        return None
    if asked == "chain":
        identity = experiment.until(position).key
    elif asked == "base":
        identity = experiment.base.key
    else:
        parts = [experiment.teachers[stage.name].digest(), experiment.resolved_dtype, experiment.resolved_device]
        identity = digest_of(parts)
    return side_folders.teacher_folder(experiment.cache_dir, identity)


def checkpoints(experiment: Experiment, key: StageKey) -> Path:
    """Folder of the checkpoints of an unfinished stage."""
    return side_folders.checkpoint_folder(experiment.cache_dir, key.digest)


def load(experiment: Experiment) -> Compressed:
    """The dense model; only its shapes for `model.weights=meta`."""
    started = time.perf_counter()
    if experiment.memory_budget and experiment.model.weights != "meta":
        model = _mapped(experiment)
    else:
        model = experiment.model.load(
            dtype=getattr(torch, experiment.resolved_dtype),
            device=torch.device(experiment.resolved_device),
            offload=experiment.offload,
        )
    if experiment.keep_zeros and not model.is_meta:
        for layer in model.targets().values():
            if has_single_weights(layer):
                mark_zeros(layer, weight_2d(layer))
            model.release()
    return Compressed(model, load_seconds=time.perf_counter() - started)


def _mapped(experiment: Experiment) -> LanguageModel:
    """The dense model in a file, after saying what will be in memory."""
    log.info("what will be resident at the fullest moment, about:")
    for line in memory_plan.lines(memory_plan.plan(experiment), experiment.memory_budget):
        log.info(line)
    model = experiment.model.load_mapped(getattr(torch, experiment.resolved_dtype), experiment.cache_dir / "scratch")
    model.activation_bytes = experiment.memory_budget // memory_plan.ACTIVATION_SHARE
    return model


def calibrate(experiment: Experiment, model: LanguageModel) -> Batch | None:
    """All calibration sequences as one batch, or None for shapes alone."""
    if model.is_meta:
        return None
    return experiment.calibration.sample(experiment.model, experiment.corpora, experiment.seed)


def cache_of(experiment: Experiment) -> StageCache | None:
    """The stage cache of an experiment, ready for use; None where it is off or would hold nothing."""
    model = experiment.model
    if not (experiment.cache and experiment.stages) or model.weights == "meta" or model.trust_remote_code:
        return None  # an entry holds no code, so a model that needs its own cannot be read from one
    if experiment.memory_budget:
        return None  # it holds whole models
    cache = StageCache(experiment.cache_dir, experiment.cache_limit_bytes)
    if reason := cache.open():
        log.warning(
            "the stage cache %s cannot be used (%s): this job goes on without it. Set cache_dir=FOLDER, or cache=off",
            *(cache.folder, reason),
        )
        return None
    return cache


def _longest(experiment: Experiment, keys: Sequence[StageKey], cache: StageCache) -> Compressed | None:
    """The longest part of the chain, from its beginning, that the cache holds whole."""
    for position in range(len(keys), 0, -1):
        if not cache.holds(keys[position - 1]):
            continue
        with cache.claim(keys[position - 1]):
            if restored := _restored(experiment, keys[position - 1], position, cache, None):
                return restored
    return None


def _restored(
    experiment: Experiment, key: StageKey, position: int, cache: StageCache, before: Compressed | None
) -> Compressed | None:
    """The model after the first `position` stages as the cache holds it; None where it does not, or not as written."""
    started = time.perf_counter()
    if (kept := cache.read(key)) is None:
        return None
    content = kept.content
    began_with = content["state"].get("upstream_digest")
    if before and None not in (before.weights_digest, began_with) and before.weights_digest != began_with:
        cache.refuse(key, "the stage before it left other weights than it began with")
        return None
    try:
        model = experiment.model.restored(
            kept.folder,
            dtype=getattr(torch, content["dtype"]),
            device=torch.device(experiment.resolved_device),
            offload=experiment.offload,
            original_parameters=content["original_parameters"],
        )
    except ModelError as error:
        cache.refuse(key, str(error))
        return None
    if weights_digest(model) != content["weights_digest"]:
        cache.refuse(key, "it reads back as other weights than were written")
        return None
    seconds = time.perf_counter() - started
    stages, layers, treated = _with_names(content["state"], experiment.stages[:position])
    known = before.stages if before else []
    for entry, own in zip(stages, known, strict=False):
        entry |= {name: own[name] for name in ("restored", "seconds", "computed_on")}
    for entry in stages[len(known) :]:
        log.info("%s: restored (computed in %.1f s)", entry["name"], entry["seconds"])
    log.info("restoring took %.1f s", seconds)
    load, spent = (before.load_seconds, before.spent_seconds) if before else (0.0, 0.0)
    return Compressed(model, stages, layers, treated, content["weights_digest"], load + seconds, spent + seconds)


def _with_names(state: dict[str, Any], stages: Sequence[Stage]) -> tuple[list[dict], list[dict], list[set[str]]]:
    """Cached results of some stages, under the names that these have in this chain."""
    names = {entry["name"]: stage.name for entry, stage in zip(state["stages"], stages, strict=True)}
    entries = [
        entry
        | described(stage)
        | {
            "sparsity_after": {names[name]: value for name, value in entry["sparsity_after"].items()},
            "restored": True,
        }
        for entry, stage in zip(state["stages"], stages, strict=True)
    ]
    layers = [counts | {"stage": names[counts["stage"]]} for counts in state["layers"]]
    return entries, layers, [set(treated) for treated in state["treated"]]


def _keep(cache: StageCache, key: StageKey, done: Compressed, unkept: float, upstream: str | None) -> bool:
    """Keep what the last stage made of a model of digest `upstream`; returns whether it is there to be restored."""
    started = time.perf_counter()
    state = {"stages": done.stages, "layers": done.layers, "upstream_digest": upstream}
    state["treated"] = [sorted(names) for names in done.treated]
    outcome = cache.keep(key, done.model, state, unkept)
    done.spent_seconds += time.perf_counter() - started
    log.info("%s: %s", done.stages[-1]["name"], outcome)
    done.weights_digest = written_digest(cache.folder / key.digest) if cache.holds(key) else None
    return cache.holds(key)


def apply(experiment: Experiment, stage: Stage, context: StageContext, done: Compressed) -> None:
    """Apply a stage in place, or plan it on a skeleton; then the sparsity of every stage so far is measured again."""
    log.info("%s: compressing", stage.name)
    done.weights_digest = None
    started = time.perf_counter()
    torch.manual_seed(experiment.seed)
    model, technique, before = done.model, stage.technique, done.model.targets()
    try:
        report = technique.plan(model) if isinstance(model, Skeleton) else technique.apply(model, context)
    except Exception as error:  # whatever a technique raises; the failure says which stage it was
        raise StageError.of(stage.name, error) from error
    seconds = time.perf_counter() - started
    log.info("%s: computed in %.1f s", stage.name, seconds)
    done.spent_seconds += seconds
    done.layers.append({"stage": stage.name, "layers": [asdict(layer) for layer in report.layers]})
    done.stages.append(account_of(stage, report, seconds) | {"computed_on": computed_on(experiment.resolved_device)})
    now = places(before, done.model.targets())
    done.treated.append({layer.name for layer in report.layers})
    done.treated = [{now[name] for name in layers if name in now} for layers in done.treated]
    for entry, layers in zip(done.stages, done.treated, strict=True):
        entry["sparsity_after"][stage.name] = sparsity(done.model, layers)
