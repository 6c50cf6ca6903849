"""Identities: what decides a model, a stage of its chain, or a measurement, and nothing else, as SHA-256 digests.

No identity holds a module path: a file may move without a record or a cached stage being lost.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from slimsweep.models.sources.tokenizer_digest import tokenizer_digest


@runtime_checkable
class Keyed(Protocol):
    """Protocol of an experiment as keys read it."""

    model: Any
    stages: tuple[Any, ...]
    calibration: Any
    corpora: Any
    teachers: dict[str, Any]
    seed: int
    keep_zeros: bool
    label: str
    data: Any
    needs_calibration: bool
    needs_data: bool
    uses_seed: bool
    resolved_dtype: str
    resolved_device: str


SUMS_VERSION = 3
"""Raised by hand when what is collected of the same inputs, or prepared of the same sums, changes."""


@dataclass(frozen=True)
class StageKey:
    """Identity of a stage's result: the weights that were loaded, and every stage to this one."""

    digest: str
    """SHA-256 over the digest of what is upstream and the last of `parts`."""
    parts: tuple[dict[str, Any], ...]
    """Settings of loading, then of each stage, with its text and seed where the stage looks at them."""
    model: str
    """Name of the model, for lists; decides nothing."""
    label: str
    """The chain to this stage, for lists and logs; decides nothing."""


def model_key(experiment: Keyed, versions: Sequence[int] | None = None) -> str:
    """SHA-256 of what decides an experiment's model: weights, stages, calibration text, seed, dtype, kind of device.

    `versions`: of the stages, where an older record holds them; None: those of today's code.
    """
    has_weights = experiment.model.weights != "meta"
    versions = versions or [None] * len(experiment.stages)
    content = _loaded(experiment) | {
        "stages": [identity(stage.technique, own) for stage, own in zip(experiment.stages, versions, strict=True)]
    }
    if experiment.needs_calibration and has_weights:
        content["calibration"] = _calibration(experiment)
    if experiment.needs_data and has_weights:
        content["data"] = _data(experiment)
    if teachers := [source.digest() for source in experiment.teachers.values()]:
        content["teachers"] = teachers
    if experiment.uses_seed and has_weights:
        content["seed"] = experiment.seed
    return _digest(content)


def metric_identity(metric: Any, corpora: Any) -> dict[str, Any]:
    """Identity of a measurement: metric, version, fields, and digests of its texts."""
    return identity(metric) | {"digests": metric.digests(corpora)}


def digest_of(content: Any) -> str:
    """SHA-256 of an identity."""
    return _digest(content)


def stage_keys(experiment: Keyed) -> list[StageKey]:
    """The key of each stage's result, in order of the chain.

    Calibration and seed are in it from the first stage on that looks at text or draws anything.
    """
    parts = [_loaded(experiment)]
    digest, keys = _digest(parts[0]), []
    for position, stage in enumerate(experiment.stages, 1):
        part = {"stage": identity(stage.technique)}
        needs = stage.technique.requirements
        if needs.calibration:
            part["calibration"] = _calibration(experiment)
        if needs.data:
            part["data"] = _data(experiment)
        if stage.name in experiment.teachers:
            part["teacher"] = experiment.teachers[stage.name].digest()
        if needs.calibration or needs.seed:
            part["seed"] = experiment.seed
        parts.append(part)
        digest = _digest({"upstream": digest, **part})
        chain = dataclasses.replace(experiment, stages=experiment.stages[:position]).label
        name = experiment.model.name
        keys.append(StageKey(digest, tuple(parts), name, chain.removeprefix(f"{name} ")))
    return keys


def sums_key(asks: StageKey, statistic: str, layers: Sequence[str]) -> StageKey:
    """The key of what the inputs of some layers sum to before a stage that asks for it.

    Upstream of them are the stages before that one; of the stage itself only text and seed decide anything.
    """
    *upstream, own = asks.parts
    part = {"sums": statistic, "version": SUMS_VERSION, "layers": list(layers)} | {
        name: own[name] for name in ("calibration", "seed")
    }
    parts = (*upstream, part)
    chain = "+".join(stage["stage"]["name"] for stage in upstream[1:]) or "dense"
    return StageKey(_digest(list(parts)), parts, asks.model, f"{statistic} of the inputs of {chain}")


def identity(part: Any, version: int | None = None) -> dict[str, Any]:
    """Identity of a stage, metric or calibration: package, name, version, and fields that are not default.

    Paths and columns are left out: the digest of what they hold stands in the key instead.
    """
    fields, unkeyed = {}, getattr(part, "unkeyed", ())
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if value != default and not _is_place(field.name) and field.name not in unkeyed:
            fields[field.name] = _pathless(value)
    package = type(part).__module__.partition(".")[0]
    version = getattr(part, "version", 1) if version is None else version
    return {"package": package, "name": name_of(type(part)), "version": version, "fields": fields}


def name_of(kind: type) -> str:
    """Word of a technique or metric: its file's stem, with the class where that has another name (`base.Other`)."""
    stem = stem_of(kind)
    return stem if kind.__name__.lower() == stem.replace("_", "") else f"{stem}.{kind.__name__}"


def stem_of(kind: type) -> str:
    """Stem of the file that defines a class."""
    return kind.__module__.rsplit(".", 1)[-1]


def _loaded(experiment: Keyed) -> dict[str, Any]:
    model = experiment.model
    return {
        "weights": model.digest(),
        "loaded_as": [model.weights, model.task, model.trust_remote_code],
        "dtype": experiment.resolved_dtype,
        "device": experiment.resolved_device.split(":")[0],
    } | ({"keep_zeros": True} if experiment.keep_zeros else {})


def _calibration(experiment: Keyed) -> dict[str, Any]:
    return identity(experiment.calibration) | {"digest": experiment.calibration.digest(experiment.corpora)}


def _data(experiment: Keyed) -> dict[str, Any]:
    tokenizer = experiment.model.tokenizer()
    return identity(experiment.data) | {
        "digest": experiment.data.digest(experiment.corpora),
        "tokenizer": tokenizer_digest(tokenizer),
        "template": tokenizer and [tokenizer.chat_template, tokenizer.bos_token_id, tokenizer.eos_token_id],
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(content: Any) -> str:
    """JSON with sorted names and no spaces; what JSON has no word for as its text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)


def _pathless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pathless(item) for key, item in value.items() if not _is_place(key)}
    if isinstance(value, list | tuple):
        return [_pathless(item) for item in value]
    return value


def _is_place(name: str) -> bool:
    """Whether a field is a path or a column of a file: `path`, `target_path`, `source_column`."""
    return name.rpartition("_")[2] in ("path", "column")
