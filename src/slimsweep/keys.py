"""What decides a result, and nothing else, as a digest: of an experiment, and of each stage of its chain."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimsweep.experiment import Experiment


SUMS_VERSION = 3
"""Raised by hand when what is collected of the same inputs, or prepared of the same sums, changes."""


@dataclass(frozen=True)
class StageKey:
    """What decides a stage's result: the weights that were loaded, and every stage to this one."""

    digest: str
    """SHA-256 over the digest of what is upstream and the last of `parts`."""
    parts: tuple[dict[str, Any], ...]
    """How the weights were loaded, then each stage, with its text and seed where it looks at them."""
    model: str
    """Name of the model, for lists; decides nothing."""
    label: str
    """The chain to this stage, for lists and logs; decides nothing."""


def experiment_key(experiment: "Experiment") -> str:
    """SHA-256 of everything that decides an experiment's result."""
    has_weights = experiment.model.weights != "meta"
    content = _loaded(experiment) | {
        "stages": [identity(stage.technique) for stage in experiment.stages],
        "evaluation": {
            name: identity(metric) | {"digests": metric.digests(experiment.corpora)}
            for name, metric in experiment.metrics.items()
            if experiment.measures(metric)
        },
    }
    if experiment.needs_calibration and has_weights:
        content["calibration"] = _calibration(experiment)
    if experiment.uses_seed and has_weights:
        content["seed"] = experiment.seed
    return _digest(content)


def stage_keys(experiment: "Experiment") -> list[StageKey]:
    """The key of each stage's result, in order of the chain.

    Calibration and seed are in it from the first stage on that looks at text or draws anything.
    """
    parts = [_loaded(experiment)]
    digest, keys = _digest(parts[0]), []
    for position, stage in enumerate(experiment.stages, 1):
        part = {"stage": identity(stage.technique)}
        if stage.technique.needs_calibration:
            part["calibration"] = _calibration(experiment)
        if stage.technique.needs_calibration or stage.technique.uses_seed:
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
    chain = "+".join(stage["stage"]["class"].rsplit(".", 1)[-1].lower() for stage in upstream[1:]) or "dense"
    return StageKey(_digest(list(parts)), parts, asks.model, f"{statistic} of the inputs of {chain}")


def identity(part: Any) -> dict[str, Any]:
    """What a stage, metric or calibration adds to a key: its class, version and fields that are not default.

    Paths and columns are left out: the digest of what they hold stands in the key instead.
    """
    fields = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if value != default and field.name not in ("path", "column"):
            fields[field.name] = _pathless(value)
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    return {"class": name, "version": getattr(part, "version", 1), "fields": fields}


def _loaded(experiment: "Experiment") -> dict[str, Any]:
    model = experiment.model
    return {
        "weights": model.digest(),
        "loaded_as": [model.weights, model.auto_class, model.trust_remote_code],
        "dtype": experiment.resolved_dtype,
        "device": experiment.resolved_device.split(":")[0],
    } | ({"keep_zeros": True} if experiment.keep_zeros else {})


def _calibration(experiment: "Experiment") -> dict[str, Any]:
    return identity(experiment.calibration) | {"digest": experiment.calibration.digest(experiment.corpora)}


def _digest(content: Any) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(content: Any) -> str:
    """JSON with sorted names and no spaces; what JSON has no word for as its text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)


def _pathless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pathless(item) for key, item in value.items() if key not in ("path", "column")}
    if isinstance(value, list | tuple):
        return [_pathless(item) for item in value]
    return value
