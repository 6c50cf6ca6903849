"""`hydra/sweeper: grids`: a sweep is a list of small grids whose union is run, equal jobs run once."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.slimsweep.composing import Composer
from slimsweep.cli.arguments import is_knob, readable
from slimsweep.cli.live import shown
from slimsweep.errors import ConfigError
from slimsweep.paths import project_path
from slimsweep.pipeline.compose import missing_knob
from slimsweep.records.store import Store


@dataclass
class GridsConfig:
    """Settings of the sweeper."""

    _target_: str = "hydra_plugins.slimsweep.grids.GridsSweeper"
    grids: Any = None
    """Each grid is one Cartesian product, `{key: "value,value"}` or `{key: [value, value]}`; their union is run."""
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None
    amends: str | None = None
    """Name of a sweep whose jobs are run once more, each with what is given beside; None: the grids are run."""


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

    A knob reaches the jobs that have it: one of a technique those with the technique, `model.path` those on disk.
    """

    def __init__(self, grids: Any, max_batch_size: int | None, params: Any, amends: str | None = None):
        super().__init__(max_batch_size, _plain(params))
        self.grids = _plain(grids) or [{}]
        self.amends = amends

    def sweep(self, arguments: list[str]) -> Any:
        """Compose and check every job, then launch those that differ.

        Raises:
            ConfigError: the faults of all jobs, before any starts.
            SweepError: after the last job, when some failed.
        """
        from slimsweep.pipeline.sweep import Sweep

        context = self.hydra_context
        composer = Composer(context.config_loader, self.config)
        configs = {tuple(overrides): composer.of(overrides) for overrides in self.jobs(arguments, composer)}
        sweep = Sweep.plan(configs)
        if self.amends:
            sweep.tell_what_is_missing()
        if self.config.dry_run:
            return sweep.show()
        if self.config.trial:
            from slimsweep.pipeline import trial

            return trial.of_sweep([experiment for _, experiment in sweep.launches])
        context.config_loader = FrozenConfigs(context.config_loader, configs)
        try:
            with shown():
                errors = self._launch(sweep.open())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(sweep.interrupted()) from None
        return sweep.finish(errors)

    def _launch(self, jobs: list[list[str]]) -> list[Exception]:
        """Run jobs; returns the errors of those that failed."""
        errors: list[Exception] = []
        size = 1 if self.config.on_error == "stop" else (self.max_batch_size or max(1, len(jobs)))
        for start in range(0, len(jobs), size):
            results = self.launcher.launch(jobs[start : start + size], initial_job_idx=start)
            errors += [job._return_value for job in results if job.status is JobStatus.FAILED]
            if self.config.on_error == "stop" and errors:
                break
        return errors

    def jobs(self, arguments: list[str], composer: Composer) -> list[Sequence[str]]:
        """Override lists of all grids in order, each once.

        Raises:
            ConfigError: a grid that is no mapping, a value with two meanings, or a knob that no job has.
        """
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [*self._overrides_of(self.params), *arguments]
        replaced = {override.get_key_element().lstrip("+~") for override in parser.parse_overrides(given)}
        required = set(replaced)
        jobs = []
        for own in self._amended(replaced) if self.amends else []:
            for batch in self.split_arguments(parser.parse_overrides(with_more_choices(own, given)), None):
                jobs += [tuple(overrides) for overrides in batch]
        for grid in [] if self.amends else self._checked_grids():
            kept = {key: value for key, value in grid.items() if key.lstrip("+~") not in replaced}
            if len(kept) == len(grid):  # else a knob may belong to a choice that the command line replaced
                required |= {key.lstrip("+~") for key in kept}
            for batch in self.split_arguments(parser.parse_overrides([*self._overrides_of(kept), *given]), None):
                jobs += [tuple(overrides) for overrides in batch]
        return self._with_fitting_knobs(jobs, required, composer)

    def _amended(self, replaced: set[str]) -> list[list[str]]:
        """Overrides of each job of the sweep that is amended, without those that the command line replaces.

        Choices of metrics are never replaced: the command line adds to them.
        """
        store = Store(project_path(self.config.outputs_dir))
        replaced = replaced - {"metric"}
        return [
            [word for word in job.overrides if word.partition("=")[0].lstrip("+~") not in replaced]
            for job in store.sweep_jobs(self.amends)
        ]

    def _checked_grids(self) -> list[dict[str, Any]]:
        if not isinstance(self.grids, list) or not all(isinstance(grid, dict) for grid in self.grids):
            raise ConfigError(
                [f"hydra.sweeper.grids={self.grids!r}: give a list of grids such as - {{technique: wanda, seed: 1}}"]
            )
        return self.grids

    def _overrides_of(self, grid: dict[str, Any]) -> list[str]:
        """A grid's entries as one types them on the command line."""
        return [readable(f"{key}={self._values(key, value)}") for key, value in grid.items()]

    def _values(self, key: str, value: Any) -> str:
        """The values of one key; a YAML list is a list of values, unless the setting itself is a list."""
        if not isinstance(value, list):
            return _as_typed(value)
        is_list_setting = key == "technique" or OmegaConf.is_list(OmegaConf.select(self.config, key))
        has_lists = any(isinstance(item, list) for item in value)
        if is_list_setting and not has_lists and len(value) > 1:
            one, several = _as_typed(value), _as_typed(value)[1:-1]
            raise ConfigError(
                [
                    f"hydra.sweeper.grids: {key}: {one} may be one list or {len(value)} values: write "
                    f'{key}: "{one}" for one job with this list, or {key}: "{several}" for {len(value)} jobs'
                ]
            )
        is_one_value = not value or (is_list_setting and not has_lists)
        return _as_typed(value) if is_one_value else ",".join(map(_as_typed, value))

    def _with_fitting_knobs(
        self, jobs: list[Sequence[str]], required: set[str], composer: Composer
    ) -> list[Sequence[str]]:
        """Each job without the knobs that its own choices lack, such as those of another job's technique; each once.

        Raises:
            ConfigError: no job has a knob that is required.
        """
        parser = OverridesParser.create()
        settings: dict[tuple[str, ...], DictConfig] = {}
        fitting, taken, missing = [], set(), {}
        for job in dict.fromkeys(jobs):
            knobs = {line: override.key_or_group for line in job if is_knob(override := parser.parse_override(line))}
            if not knobs:
                fitting.append(job)
                continue
            # Ratio and seed decide no field's presence: a sweep over them composes this once for each chain.
            choices = tuple(line for line in job if line not in knobs and not line.startswith(("ratio=", "seed=")))
            if choices not in settings:
                settings[choices] = composer.of(choices)
            idle = {
                line for line, key in knobs.items() if not _has(settings[choices], key, is_new=line.startswith("+"))
            }
            taken |= {key for line, key in knobs.items() if line not in idle}
            missing |= {knobs[line]: line for line in idle}
            fitting.append(tuple(line for line in job if line not in idle))
        faults = [
            missing_knob(line, list(settings.values()))
            for key, line in missing.items()
            if key not in taken and key in required
        ]
        if faults:
            raise ConfigError(faults)
        return list(dict.fromkeys(fitting))


def with_more_choices(own: list[str], given: list[str]) -> list[str]:
    """Overrides of a job with those of the command line; metrics chosen by both become one list, each once.

    Hydra refuses a group that is chosen twice.
    """
    words = [*own, *given]
    chosen = [word for word in words if word.startswith("+metric=")]
    if len(chosen) < 2:
        return words
    names = [name.strip() for word in chosen for name in word.partition("=")[2].strip("[]").split(",")]
    return [*(word for word in words if word not in chosen), f"+metric=[{','.join(dict.fromkeys(names))}]"]


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def _as_typed(value: Any) -> str:
    """A YAML value in Hydra's grammar of the command line; text is taken as it is, so that "0.3,0.5" is two values."""
    if isinstance(value, list):
        return f"[{','.join(map(_as_typed, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_as_typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _has(config: DictConfig, key: str, *, is_new: bool) -> bool:
    """Whether a composed job has the field `key`, or the choice that a new field (`+key`) is to be added to."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent)
    return OmegaConf.is_dict(node) and (is_new or name in node.keys())  # noqa: SIM118 - `in node` resolves the value
