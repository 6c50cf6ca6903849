"""Experiments on small random models with a stage cache of their own, for tests."""

import dataclasses
import functools
import json
from pathlib import Path

from conftest import CACHE, PROJECT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.models.language_model import weights_digest
from slimsweep.pipeline.chain import Compressed
from slimsweep.pipeline.experiment import Experiment
from slimsweep.records.record import STAGE_FIELDS_THAT_MAY_DIFFER

assert slimsweep.cli.app

SMALL = ("model=random", "evaluation=cost", "calibration.sequences=2", "calibration.tokens=32", "tracker=none")


def experiment(cache_dir: Path, *overrides: str) -> Experiment:
    """A checked experiment of conf/, composed as the command does, that keeps its stages in `cache_dir`."""
    return dataclasses.replace(_composed(overrides), cache_dir=cache_dir)


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Experiment:
    overrides = (*SMALL, f"cache_dir={CACHE}", *overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3", job_name="test"):
        made = Experiment.of(compose("config", list(overrides)), list(overrides))
    made.check()
    return made


def comparable(done: Compressed) -> list:
    """All that two ways to one model must agree on, as JSON has it."""
    stages = [
        {name: value for name, value in stage.items() if name not in STAGE_FIELDS_THAT_MAY_DIFFER}
        for stage in done.stages
    ]
    treated = [sorted(names) for names in done.treated]
    rest = [weights_digest(done.model), done.model.original_parameters, str(done.model.dtype)]
    return json.loads(json.dumps([stages, done.layers, treated, *rest]))


def restored(done: Compressed) -> list[bool]:
    """Of each stage whether it was restored."""
    return [stage["restored"] for stage in done.stages]
