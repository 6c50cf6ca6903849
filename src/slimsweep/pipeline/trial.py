"""Trial of a job on a small random copy of its model, in seconds, with nothing kept: `trial=true`.

A trial runs the whole path of a job: calibrate, every stage, every metric, record, table. Only amounts are smaller: the
model (models/sources/small_copy.py), calibration sequences, training steps, windows, questions and generated tokens.
It finds what fails for reasons of code, settings, tokenizer or data. It cannot find faults that depend on trained
weights, on full widths, or on memory and time of the real size. The check before a job looks at memory and time.
"""

import dataclasses
import logging
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from slimsweep.data.training import TrainingSet
from slimsweep.errors import ConfigError, SlimsweepError
from slimsweep.linear.base import layer_shape
from slimsweep.models.language_model import parameter_count
from slimsweep.models.sources.small_copy import write_small_copy
from slimsweep.models.storage import saved_model
from slimsweep.pipeline.experiment import Experiment, Stage
from slimsweep.pipeline.job import perform
from slimsweep.pipeline.keys import digest_of, identity
from slimsweep.records.store import Store
from slimsweep.records.table import render
from slimsweep.records.tracking.none import NoTracker

log = logging.getLogger(__name__)

SECONDS = 30
"""Longest time that a trial should take; a slower one says so."""
STAGE_LIMITS = {
    "tokens": 1536,
    "batch_sequences": 2,
    "micro_sequences": 1,
    "evaluations": 1,
    "steps": 2,
    "rank": 8,
    "written_sequences": 4,
    "new_tokens": 8,
    "response_tokens": 8,
    "removals": 2,
    "score_batches": 2,
    "shots": 2,
    "protect_first": 0,
    "protect_last": 0,
}
"""Largest values of knobs that set an amount of work, or that fit many blocks and full widths only."""
STAGE_VALUES = {"epochs": None, "max_minutes": None}
"""Values of knobs whose real values suit the real amounts only."""
METRIC_LIMITS = {
    "context_tokens": 64,
    "max_windows": 2,
    "task_limit": 4,
    "max_pairs": 4,
    "max_rows": 8,
    "repeats": 1,
    "warm_ups": 1,
    "new_tokens": 4,
    "max_new_tokens": 8,
    "min_new_tokens": 2,
    "prompt_tokens": 16,
    "tokens": 64,
}
NULL_IS_ALL = ("max_windows", "task_limit", "max_pairs", "max_rows")
"""Knobs whose null means all there are."""
CALIBRATION_LIMITS = {"sequences": 4, "tokens": 64}
TRAINING_EXAMPLES = 16
VALIDATION_EXAMPLES = 4


UNTRIED = "Not tried: trained weights, full widths, memory and time of the real size."


@dataclass(frozen=True)
class TrialExperiment(Experiment):
    """Experiment of few training examples, all else as it is given."""

    examples: TrainingSet | None
    """Examples of the real experiment; the first few are trained on. None where no stage trains."""

    @cached_property
    def training_set(self) -> Any:
        """The first few examples, already tokenized for the real model."""
        training, validation = self.examples.training[:TRAINING_EXAMPLES], self.examples.validation
        return dataclasses.replace(self.examples, training=training, validation=validation[:VALIDATION_EXAMPLES])


@dataclass
class Trial:
    """Result of one trial."""

    label: str
    copy: str = ""
    """Shape of the copy, in words."""
    steps: list[str] = field(default_factory=list)
    """Steps that were tried, in order, each with what came of it."""
    skipped: list[str] = field(default_factory=list)
    """Parts that the copy is too small for, with the reason."""
    warnings: list[str] = field(default_factory=list)
    reason: str = ""
    """Reason of the failure; empty where the trial passed."""
    seconds: float = 0.0
    busy_seconds: float = 0.0
    """Processor time: on a machine that others use too, much less than the seconds on the clock."""

    @property
    def lines(self) -> list[str]:
        """The result for a terminal."""
        time_text = f"{self.seconds:.1f} s"
        if self.seconds > SECONDS:
            time_text += f" (more than {SECONDS} s; of the processor {self.busy_seconds:.1f} s)"
        end = f"passed in {time_text}" if self.steps else "nothing could be tried"
        end = f"FAILED after {time_text}: {self.reason}" if self.reason else end
        return [
            f"trial of {self.label}",
            *([f"  copy      {self.copy}"] if self.copy else []),
            *(f"  ok        {step}" for step in self.steps),
            *(f"  not tried {reason}" for reason in self.skipped),
            *(f"  warning   {text}" for text in self.warnings),
            f"  {end}",
        ]


class TrialError(SlimsweepError):
    """A trial found that the real job would fail."""


class Trials:
    """Trials that share a temporary folder, one small copy of each model, and one dense baseline."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._copies: dict[str, Any] = {}

    def run(self, experiment: Experiment) -> Trial:
        """Try one checked experiment; whatever it raises becomes its result."""
        started, busy, trial = time.perf_counter(), time.process_time(), Trial(experiment.label)
        steps = _Steps(trial)
        try:
            with steps.listening():
                self._run(experiment, trial)
        except Exception as error:  # whatever the real job would have raised, hours later
            log.debug("the trial failed", exc_info=True)
            trial.reason = _reason(error, steps.measuring)
        trial.seconds, trial.busy_seconds = time.perf_counter() - started, time.process_time() - busy
        return trial

    def _run(self, experiment: Experiment, trial: Trial) -> None:
        if experiment.model.weights == "meta":
            trial.skipped.append("anything: only shapes are loaded (model.weights=meta), and the check has done that")
            return
        model = self._copy(experiment.model)
        trial.copy = _shape(model)
        small = without_misfits(_without_solvers(self._small(experiment, model), trial), trial)
        path = perform(small, Store(small.outputs_dir))
        render([Store.read_json(path)])
        if small.save_model:
            saved_model.load(path.parent / "model")

    def _copy(self, source: Any) -> Any:
        identity = repr(source)
        if identity not in self._copies:
            self._copies[identity] = write_small_copy(source, self._folder / f"model-{len(self._copies)}")
        return self._copies[identity]

    def _small(self, experiment: Experiment, model: Any) -> TrialExperiment:
        """The experiment on a copy, with small amounts and folders of its own."""
        widths = _widths(model)
        changes = {
            "model": model,
            "stages": tuple(self._stage(stage, experiment.teachers, widths) for stage in experiment.stages),
            "calibration": _few_sequences(experiment.calibration),
            "metrics": {name: limited(metric, METRIC_LIMITS) for name, metric in experiment.metrics.items()},
            "tracker": NoTracker(),
            "cache_dir": self._folder / "cache",
            "outputs_dir": self._folder / "outputs",
            "sweep": None,
            "fresh": False,
            "amend": False,
        }
        values = {one.name: getattr(experiment, one.name) for one in dataclasses.fields(Experiment)}
        examples = experiment.training_set if experiment.needs_data else None
        return TrialExperiment(**values | changes, examples=examples)

    def _stage(self, stage: Stage, teachers: dict[str, Any], widths: set[int]) -> Stage:
        technique = limited(stage.technique, STAGE_LIMITS, STAGE_VALUES)
        known = {one.name: getattr(technique, one.name) for one in dataclasses.fields(technique) if one.init}
        changes: dict[str, Any] = {}
        if isinstance(known.get("group_size"), int) and known.get("bits", "any") is not None:
            changes["group_size"] = math.gcd(known["group_size"], *widths)
        if isinstance(known.get("blocks"), tuple):  # a range of pruners, or the blocks that a student keeps
            changes["blocks"] = (0,) if "teacher" in known else None
        if stage.name in teachers:
            changes["teacher_path"] = self._copy(teachers[stage.name]).path
        return Stage(stage.name, dataclasses.replace(technique, **changes) if changes else technique)


class _Steps(logging.Handler):
    """Collects the steps of a trial from the log lines that every job writes."""

    def __init__(self, trial: Trial):
        super().__init__(logging.INFO)
        self._trial = trial
        self.measuring = ""
        """Metrics at work; empty where none is."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen until the block ends. The steps are those that have ended, so the failing one is not among them."""
        logger = logging.getLogger("slimsweep")
        before = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        try:
            yield
            self._measured()
        finally:
            logger.removeHandler(self)
            logger.setLevel(before)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            if not record.exc_info:
                self._trial.warnings.append(text)
        elif ": computed in " in text or ": restored (" in text:
            self._done(f"stage {text}")
        elif text.endswith(": measuring"):
            self._measured()
            self.measuring = text.removesuffix(": measuring")

    def _measured(self) -> None:
        if self.measuring:
            self._done(f"measured {self.measuring}")
        self.measuring = ""

    def _done(self, step: str) -> None:
        name = step.split(": ")[0]
        if name not in [one.split(": ")[0] for one in self._trial.steps]:  # the base and the chain before it come too
            self._trial.steps.append(step)


def limited(part: Any, limits: dict[str, int], values: dict[str, Any] | None = None) -> Any:
    """A copy of a dataclass whose whole numbers are at most the limits, and whose other fields have given values."""
    fields = {one.name: getattr(part, one.name) for one in dataclasses.fields(part) if one.init}
    changes: dict[str, Any] = {}
    for name, limit in limits.items():
        value = fields.get(name, 0)
        if (type(value) is int and value > limit) or (value is None and name in NULL_IS_ALL):
            changes[name] = limit
    changes |= {name: value for name, value in (values or {}).items() if name in fields}
    if fields.get("epochs") is not None:
        changes["tokens"] = limits["tokens"]
    return dataclasses.replace(part, **changes) if changes else part


def _few_sequences(calibration: Any) -> Any:
    """Calibration with few sequences; windows of text are shorter too, whole examples are not."""
    limits = CALIBRATION_LIMITS if hasattr(calibration, "draw") else {"sequences": CALIBRATION_LIMITS["sequences"]}
    return limited(calibration, limits)


def _without_solvers(small: TrialExperiment, trial: Trial) -> TrialExperiment:
    """The experiment without stages that learn from what their teacher solves: a random teacher solves nothing."""
    left = [one for one in small.stages if hasattr(one.technique, "least_kept")]
    trial.skipped += [f"technique.{one.name}: its teacher, a random copy, solves no problem" for one in left]
    return dataclasses.replace(small, stages=tuple(one for one in small.stages if one not in left)) if left else small


def without_misfits(small: TrialExperiment, trial: Trial) -> TrialExperiment:
    """The experiment without stages and metrics that a copy is too small for; the trial notes why each is left out.

    Raises:
        ConfigError: what does not fit is neither a stage nor a metric.
    """
    while True:
        try:
            small.check()
        except ConfigError as error:
            names = {fault: re.match(r"(technique|evaluation\.metrics)\.(\w+)", fault) for fault in error.faults}
            if None in names.values():
                raise
            for fault in names:
                trial.skipped.append(f"on this copy, which is too small for it: {fault}")
            left_out = {(found[1], found[2]) for found in names.values() if found}
            small = dataclasses.replace(
                small,
                stages=tuple(one for one in small.stages if ("technique", one.name) not in left_out),
                metrics={
                    name: metric
                    for name, metric in small.metrics.items()
                    if ("evaluation.metrics", name) not in left_out
                },
            )
        else:
            return small


def of_job(experiment: Experiment) -> None:
    """Try one job and print what was tried.

    Raises:
        TrialError: the real job would fail.
    """
    _run_all([experiment])


def of_sweep(experiments: Sequence[Experiment]) -> None:
    """Try each distinct chain of a sweep once, at its highest ratio, and print what was tried.

    Raises:
        TrialError: some real jobs would fail; names them.
    """
    chosen: dict[str, Experiment] = {}
    for experiment in experiments:
        kind = digest_of(_kind(experiment))
        if kind not in chosen or sum(experiment.ratios) > sum(chosen[kind].ratios):
            chosen[kind] = experiment
    print(f"{len(experiments)} jobs, {len(chosen)} distinct chains to try", flush=True)
    _run_all(list(chosen.values()))


def _run_all(experiments: Sequence[Experiment]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="slimsweep-trial-"))
    failed = []
    try:
        trials = Trials(folder)
        for experiment in experiments:
            trial = trials.run(experiment)
            print("\n".join(trial.lines), flush=True)
            failed += [trial] if trial.reason else []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"Nothing was recorded. {UNTRIED}", flush=True)
    if failed:
        lines = "\n".join(f"  - {trial.label}: {trial.reason}" for trial in failed)
        raise TrialError(f"{len(failed)} of {len(experiments)} trials failed; the real jobs would fail too:\n{lines}")


def _kind(experiment: Experiment) -> list[Any]:
    """Everything that tells two jobs apart but the ratio and the seed."""
    stages = [[stage.name, identity(stage.technique)] for stage in experiment.stages]
    for _, stage in stages:
        stage["fields"].pop("ratio", None)
    parts = [experiment.model, experiment.calibration, experiment.data, experiment.metrics]
    return [stages, *map(repr, parts), experiment.resolved_dtype, experiment.resolved_device, experiment.offload]


def _widths(model: Any) -> set[int]:
    """Input widths of the layers that quantizers treat."""
    return {layer_shape(layer)[1] for layer in model.skeleton().targets().values()}


def _shape(model: Any) -> str:
    """A copy's shape for people."""
    skeleton = model.skeleton()
    count = parameter_count(skeleton.module) / 1e6
    blocks = "+".join(str(len(stack)) for stack in skeleton.stack_ranges)
    width = skeleton.config.get_text_config().hidden_size
    return f"{skeleton.config.model_type}, {blocks} blocks, width {width}, {count:.1f}M random weights"


def _reason(error: Exception | None, measuring: str) -> str:
    """First line of an error, with the metric at work."""
    if isinstance(error, ConfigError):
        return "; ".join(error.faults)
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if not isinstance(error, SlimsweepError):
        text = f"{type(error).__name__}: {text}"
    return f"measuring {measuring}: {text}" if measuring else text
