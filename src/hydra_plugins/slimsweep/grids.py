"""`hydra/sweeper: grids`: a sweep is a list of small grids whose union is run, equal jobs folded."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from omegaconf import DictConfig


@dataclass
class GridsConfig:
    """Settings of the sweeper."""

    _target_: str = "hydra_plugins.slimsweep.grids.GridsSweeper"
    grids: list[dict[str, str]] = field(default_factory=lambda: [{}])
    """Each grid is one Cartesian product, `{key: "value,value"}`; their union is run."""
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="grids", node=GridsConfig, provider="slimsweep")


class FrozenConfigs:
    """The job configurations as they were at the launch: editing a YAML later changes no queued job."""

    def __init__(self, loader: Any, configs: dict[tuple[str, ...], DictConfig]):
        self.loader = loader
        self.configs = configs

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        return copy.deepcopy(self.configs[tuple(sweep_overrides)])

    def __getattr__(self, name: str) -> Any:
        if name in ("loader", "configs"):  # not yet there while unpickling
            raise AttributeError(name)
        return getattr(self.loader, name)


class GridsSweeper(BasicSweeper):
    """Runs the union of several grids; overrides on the command line replace a grid's keys.

    A knob of a technique reaches the jobs that have it.
    """

    def __init__(self, grids: list[dict[str, str]], max_batch_size: int | None, params: dict[str, str] | None):
        super().__init__(max_batch_size, params)
        self.grids = grids

    def sweep(self, arguments: list[str]) -> Any:
        """Compose and check every job, then launch those that differ.

        Raises:
            ConfigError: the faults of all jobs, before any starts.
            SweepError: after the last job, when some failed.
        """
        from slimsweep.sweep import Sweep

        context = self.hydra_context
        configs = {
            tuple(overrides): context.config_loader.load_sweep_config(self.config, list(overrides))
            for overrides in self.jobs(arguments)
        }
        sweep = Sweep.plan(configs)
        if self.config.dry_run:
            return sweep.show()
        context.config_loader = FrozenConfigs(context.config_loader, configs)
        jobs = sweep.open()
        errors: list[Exception] = []
        size = 1 if self.config.on_error == "stop" else (self.max_batch_size or max(1, len(jobs)))
        for start in range(0, len(jobs), size):
            results = self.launcher.launch(jobs[start : start + size], initial_job_idx=start)
            errors += [job._return_value for job in results if job.status is JobStatus.FAILED]
            if self.config.on_error == "stop" and errors:
                break
        return sweep.finish(errors)

    def jobs(self, arguments: list[str]) -> list[Sequence[str]]:
        """Override lists of all grids in order, each once."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [*self._parse_config(), *arguments]
        keys = {override.get_key_element().lstrip("+~") for override in parser.parse_overrides(given)}
        jobs = []
        for grid in self.grids or [{}]:
            own = [f"{key}={value}" for key, value in grid.items() if key.lstrip("+~") not in keys]
            for batch in self.split_arguments(parser.parse_overrides([*own, *given]), None):
                jobs += [tuple(overrides) for overrides in batch]
        used = set().union(*map(_techniques, jobs))
        return list(dict.fromkeys(tuple(_without_idle_knobs(job, used)) for job in jobs))


def _techniques(job: Sequence[str]) -> set[str]:
    """Names in the chain of a job's overrides."""
    chains = [override.split("=", 1)[1] for override in job if override.startswith("technique=")]
    return set(re.findall(r"\w+", " ".join(chains)))


def _without_idle_knobs(job: Sequence[str], used: set[str]) -> list[str]:
    """A job's overrides without knobs of techniques that only other jobs of the sweep have.

    A knob of a technique that no job has stays, and is told as the mistake it is.
    """
    others = used - _techniques(job)
    knobs = {override: re.match(r"technique\.(\w+)\.", override) for override in job}
    return [override for override, knob in knobs.items() if not (knob and knob[1] in others)]
