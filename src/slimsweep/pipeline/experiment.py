"""The typed form of conf/config.yaml: one experiment, checked for every fault before weights load."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slimsweep.errors import ConfigError, StageError
from slimsweep.evaluation.base import Metric
from slimsweep.paths import project_path
from slimsweep.pipeline import memory_plan, training_checks
from slimsweep.pipeline.compose import (
    SWITCH,
    as_text,
    bad_scalars,
    build,
    device_faults,
    missing_keys,
    portable,
    repeated_stages,
    rounded,
    telling,
    tracker_from,
    unknown_keys,
)
from slimsweep.pipeline.keys import digest_of, identity, metric_identity, model_key, name_of, stem_of
from slimsweep.records.tracking.base import Tracker

AS_GIVEN = ("seed", "device", "dtype", "offload", "keep_zeros", "save_model", "sweep", "fresh", "amend")
"""Settings that an experiment holds as they are composed."""


@dataclass(frozen=True)
class Stage:
    """A technique at its place in a chain; `name` is its key below `technique`."""

    name: str
    technique: Any

    @property
    def label(self) -> str:
        """The technique's file name, which is its word on the command line, in records and in legends."""
        return stem_of(type(self.technique))


@dataclass(frozen=True)
class Asked:
    """A measurement that an experiment asks for."""

    name: str
    """Name of the metric in the evaluation."""
    metric: Any
    content: dict[str, Any]
    """Settings whose digest is the identity of the measurement."""


@dataclass(frozen=True)
class Experiment:
    """One point of a sweep: model x chain x ratio x seed x calibration x evaluation."""

    model: Any
    stages: tuple[Stage, ...]
    calibration: Any
    data: Any
    """Examples that stages which train are given."""
    metrics: dict[str, Any]
    tracker: Tracker
    corpora: Any
    seed: int
    device: str
    dtype: str
    offload: bool
    keep_zeros: bool
    """Whether every exact zero of the model as loaded counts as removed by an earlier stage."""
    memory_budget: int | None
    """Bytes that may be resident; None: the whole model is held in memory."""
    cache: bool
    """Whether results of stages are kept and restored."""
    cache_limit_bytes: int
    cache_dir: Path
    save_model: bool
    outputs_dir: Path
    sweep: str | None
    fresh: bool
    """Whether speed and memory are measured although a model of equal shapes has them."""
    amend: bool
    """Whether a launch adds to the sweep of its name instead of replacing its list."""
    choices: dict[str, Any]
    """The words by which its parts were chosen: one for `model` and `calibration`, one for each stage and metric."""
    overrides: list[str]
    """The settings that were given beside the choices, as one types them; for people."""
    config: dict[str, Any]
    """The composed settings as plain values, without targets and the folders for outputs, corpora and cache."""

    @classmethod
    def of(cls, config: DictConfig, overrides: list[str], choices: dict[str, Any] | None = None) -> "Experiment":
        """Build the typed form of a composed configuration.

        Args:
            choices: Hydra's, by group; None: parts are told by the stems of their files.

        Raises:
            ConfigError: every unknown key, mistyped knob, bad value and repeated stage, together.
        """
        from slimsweep.data.corpora import Corpora

        faults = [*repeated_stages(overrides), *missing_keys(config), *unknown_keys(config)]
        if faults:
            raise ConfigError(faults)
        plain = _plain(config)
        as_text(plain, faults)
        parts = _parts(plain, faults)
        faults += bad_scalars(plain)
        if faults:
            raise ConfigError(faults)
        data_dir = project_path(plain["data_dir"]) if plain["data_dir"] else None
        return cls(
            **parts,
            corpora=Corpora(data_dir, Path(plain["cache_dir"])),
            **{name: plain[name] for name in AS_GIVEN},
            memory_budget=memory_plan.parse_budget(plain["memory_budget"]),
            cache=SWITCH[str(plain["cache"]).lower()],
            cache_limit_bytes=round(plain["cache_limit_gb"] * 10**9),
            cache_dir=Path(plain["cache_dir"]),
            outputs_dir=project_path(plain["outputs_dir"]),
            choices=_words(parts, choices or {}),
            overrides=telling(overrides),
            config=portable(plain),
        )

    def check(self) -> None:
        """Find every fault that can be known without weights: names, shapes, texts, devices.

        Raises:
            ConfigError: with all of them.
        """
        faults = [*device_faults(self.device, self.offload), *self.tracker.faults(), *self.model.faults()]
        if not faults:  # the rest asks the model's shape and tokenizer
            faults += self._shape_faults()
        if faults:
            raise ConfigError(list(dict.fromkeys(faults)))

    def _shape_faults(self) -> list[str]:
        faults = []
        skeleton = self.model.skeleton()
        faults += [
            f"technique.{stage.name}: gradients need all weights in one place: set offload=false, or choose a "
            "technique or setting that needs none"
            for stage in self.stages
            if self.offload and stage.technique.requirements.gradients
        ]
        faults += [
            f"technique.{stage.name}: {fault}"
            for stage in self.stages
            for fault in stage.technique.device_faults(self.resolved_device)
        ]
        for position, stage in enumerate(self.stages):
            try:
                found = stage.technique.faults(skeleton)
                faults += [f"technique.{stage.name}: {fault}" for fault in found]
                if found:
                    break
                if position + 1 < len(self.stages):  # later stages see what earlier ones leave
                    skeleton = self._planned(position, skeleton)
            except Exception as error:  # whatever a technique raises while it plans costs its own job
                raise StageError.of(stage.name, error) from error
        if self.memory_budget and not faults:
            faults += memory_plan.faults(self)
        faults += [
            f"technique.{name}.teacher_path: {fault}" for name, one in self.teachers.items() for fault in one.faults()
        ]
        faults += [fault for name, metric in self.metrics.items() for fault in _quantity_faults(name, metric)]
        if self.model.weights == "meta":
            return faults
        checks = [("calibration", self.calibration)] if self.needs_calibration else []
        checks += [("data", self.data)] if self.needs_data else []
        for name, part in [*checks, *((f"evaluation.metrics.{name}", part) for name, part in self.metrics.items())]:
            faults += [f"{name}: {fault}" for fault in part.faults(self.model, self.corpora)]
        return faults or training_checks.faults(self)

    def _planned(self, position: int, skeleton: Any) -> Any:
        """A copy of a skeleton after one stage more."""
        stage, planned = self.stages[position], skeleton.copy()
        stage.technique.plan(planned)
        if position >= self._leading and stage.technique.departure:
            planned.departures.append(f"{stage.name} {stage.technique.departure}")
        return planned

    @property
    def needs_calibration(self) -> bool:
        """Whether any stage looks at calibration text."""
        return any(stage.technique.requirements.calibration for stage in self.stages)

    @property
    def needs_data(self) -> bool:
        """Whether any stage trains on examples."""
        return any(stage.technique.requirements.data for stage in self.stages)

    @property
    def base(self) -> "Experiment":
        """The experiment that this one is compared with: the dense model after the leading stages that make a base."""
        return self.until(self._leading)

    @property
    def _leading(self) -> int:
        """Number of stages at the beginning of the chain that make the base."""
        makes = [stage.technique.makes_base for stage in self.stages]
        return makes.index(False) if False in makes else len(makes)

    @property
    def before_training(self) -> "Experiment | None":
        """The experiment whose chain is this one without its last stage that trains; None where no stage does."""
        trains = [place for place, stage in enumerate(self.stages) if stage.technique.requirements.data]
        return self._with((*self.stages[: trains[-1]], *self.stages[trains[-1] + 1 :])) if trains else None

    def until(self, position: int) -> "Experiment":
        """The experiment whose chain has only the first stages of this one, on its own."""
        return self._with(self.stages[:position])

    def _with(self, kept: tuple[Stage, ...]) -> "Experiment":
        """The experiment whose chain has only some of the stages of this one, on its own."""
        names = [stage.name for stage in kept]
        dropped = tuple(f"technique.{stage.name}." for stage in self.stages if stage.name not in names)
        return dataclasses.replace(
            self,
            stages=kept,
            sweep=None,
            save_model=False,
            choices=self.choices | {"technique": {name: self.choices["technique"][name] for name in names}},
            overrides=[word for word in self.overrides if not word.lstrip("+~").startswith((*dropped, "technique="))],
            config=self.config | {"technique": {name: self.config["technique"][name] for name in names}},
        )

    @cached_property
    def teachers(self) -> dict[str, Any]:
        """Model sources of the teachers that are other models, by the name of the stage."""
        from slimsweep.models.sources.local import LocalModel

        return {
            stage.name: LocalModel(path=teacher, task=self.model.task, cache_dir=str(self.cache_dir))
            for stage in self.stages
            if (teacher := stage.technique.requirements.teacher) not in (None, "base", "chain")
        }

    @cached_property
    def training_set(self) -> Any:
        """Examples of the stages that train, read and tokenized once."""
        return self.data.examples(self.model, self.corpora)

    @cached_property
    def training_bytes(self) -> dict[str, int]:
        """Predicted memory of the stages that train, by name."""
        return training_checks.predicted_bytes(self)

    @property
    def uses_seed(self) -> bool:
        """Whether chance decides anything: calibration draws, random masks."""
        return self.needs_calibration or any(stage.technique.requirements.seed for stage in self.stages)

    @property
    def chain(self) -> str:
        """The chain as records name it: `dense`, `sparsegpt`, `sparsegpt+nf4`."""
        return "+".join(stage.label for stage in self.stages) or "dense"

    @property
    def ratios(self) -> list[float]:
        """The distinct ratios of the stages that have one, in order."""
        given = [getattr(stage.technique, "ratio", None) for stage in self.stages]
        return list(dict.fromkeys(ratio for ratio in given if ratio is not None))

    @property
    def pattern(self) -> str | None:
        """The chain's distinct patterns joined by `+`, or None where no stage has one."""
        given = [getattr(stage.technique, "pattern", None) for stage in self.stages]
        return "+".join(dict.fromkeys(pattern for pattern in given if pattern)) or None

    @property
    def label(self) -> str:
        """One line for logs and status tables."""
        words = [self.model.name, self.chain, *(f"{ratio:g}" for ratio in self.ratios)]
        if self.pattern not in (None, "unstructured"):
            words.append(self.pattern)
        words += [word for stage in self.stages for word in _knobs(stage.technique)]
        if self.needs_calibration:
            words += _calibration_words(self.overrides)
        return " ".join([*words, f"seed={self.seed}"] if self.uses_seed else words)

    @cached_property
    def resolved_device(self) -> str:
        """Device on which blocks compute: `cpu` or `cuda:N`."""
        import torch

        if self.device == "auto":
            return "cuda:0" if torch.cuda.is_available() else "cpu"
        return "cuda:0" if self.device == "cuda" else self.device

    @cached_property
    def resolved_dtype(self) -> str:
        """The dtype weights are held in; `auto` is bfloat16 where the hardware multiplies it natively."""
        import torch

        from slimsweep.records.provenance import processor_vendor

        if self.dtype != "auto":
            return self.dtype
        if self.resolved_device != "cpu":
            return "bfloat16"
        # AMX tiles; or dot products of AVX512-BF16 on AMD, measured 4 times as fast as fp32 on a Zen 5 (2 cores). On a
        # Xeon with them but without AMX a forward of SmolLM2 took 1.5 times as long in bf16 as in fp32.
        has_fast_dots = torch.cpu._is_avx512_bf16_supported() and processor_vendor() == "AuthenticAMD"
        return "bfloat16" if torch.cpu._is_amx_tile_supported() or has_fast_dots else "float32"

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that decides this experiment's model, and of nothing else."""
        return model_key(self)

    @cached_property
    def asked(self) -> dict[str, Asked]:
        """Measurements to make, by identity, each text and task by itself; on shapes alone those without weights."""
        found = {}
        for name, metric in self.metrics.items():
            if self.measures(metric):
                for part in metric.parts():
                    content = metric_identity(part, self.corpora)
                    found[digest_of(content)] = Asked(name, part, content)
        return found

    def measures(self, metric: Any) -> bool:
        """Whether a metric can be measured on this model; shapes alone have no quality and no speed."""
        return self.model.weights != "meta" or not metric.needs_weights


def _plain(config: DictConfig) -> dict[str, Any]:
    """Composed settings as plain values, their numbers rounded to the digits that people type."""
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key}: {error.msg}"]) from error
    # A model's shape keeps every digit: it describes weights that exist.
    return rounded(plain) | {"model": plain["model"]}


def _parts(plain: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """Objects that the settings describe, by field of Experiment; faults are added to the list."""
    return {
        "stages": tuple(
            Stage(name, build(f"technique.{name}", fields, faults))
            for name, fields in (plain.get("technique") or {}).items()
        ),
        **{name: build(name, plain[name], faults) for name in ("model", "calibration", "data")},
        "tracker": tracker_from(plain["tracker"], faults),
        "metrics": {
            name: build(f"evaluation.metrics.{name}", fields, faults)
            for name, fields in (plain["evaluation"].get("metrics") or {}).items()
        },
    }


def _quantity_faults(name: str, metric: Any) -> list[str]:
    """Faults of what a metric declares, which would otherwise show after it has measured."""
    where = f"evaluation.metrics.{name}"
    try:
        fields, compared = [one.field for one in metric.quantities()], tuple(metric.compared)
    except Exception as error:  # whatever somebody's metric raises
        return [f"{where}: {error}"]
    faults = [
        f"{where}: it compares {one}, of which its quantities tell nothing" for one in compared if one not in fields
    ]
    faults += [f"{where}: two of its quantities are called {one}" for one in fields if fields.count(one) > 1]
    faults += [f"{where}: its quantity {one} needs a name in place of *: use `named`" for one in fields if "*" in one]
    if type(metric).compare is not Metric.compare and not compared:
        faults.append(f"{where}: it has a `compare`, but `compared` names no field: name those that it measures")
    return faults


def _words(parts: dict[str, Any], choices: dict[str, Any]) -> dict[str, Any]:
    """Words by which the parts were chosen: Hydra's, else the stems of the parts' files."""
    return {
        **{name: choices.get(name) or stem_of(type(parts[name])) for name in ("model", "calibration", "data")},
        "technique": {stage.name: stage.label for stage in parts["stages"]},
        "metric": {name: name_of(type(metric)) for name, metric in parts["metrics"].items()},
        "packages": list(choices.get("packages") or []),
    }


def _knobs(technique: Any) -> list[str]:
    """Knobs but ratio and pattern that are not at their default, as one types them."""
    fields = identity(technique)["fields"]
    return [f"{name}={_typed(value)}" for name, value in fields.items() if name not in ("ratio", "pattern")]


def _calibration_words(overrides: Sequence[str]) -> list[str]:
    """The choice and settings of calibration that a job was given, each once; of a file, its name alone."""
    pairs = (word.lstrip("+").partition("=")[::2] for word in overrides)
    given = {name: value for name, value in pairs if name.partition(".")[0] == "calibration"}
    if "calibration.path" in given:
        given["calibration.path"] = Path(given["calibration.path"]).name
    return [f"{name}={value}" for name, value in sorted(given.items())]


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{_typed(item)}' for name, item in value.items())}}}"
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)
    return text.lower() if isinstance(value, bool) else text
