"""A sweep as a whole: its jobs checked and named before the first starts, and what is left at its end."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from slimsweep.errors import ConfigError, FigureError, ModelError, SlimsweepError, StageError, StoreError
from slimsweep.pipeline.compose import UNNAMED_SWEEP, choices_of
from slimsweep.pipeline.experiment import Experiment
from slimsweep.progress import watcher
from slimsweep.records.record import write_json, write_text
from slimsweep.records.store import Store, SweepJob

log = logging.getLogger(__name__)


class SweepError(SlimsweepError):
    """Some jobs of a sweep failed; the others are recorded."""


@dataclass(frozen=True)
class Sweep:
    """The distinct experiments of one launch."""

    name: str
    store: Store
    jobs: tuple[SweepJob, ...]
    """Every model of this launch once, with all that is asked to be measured of it."""
    launches: tuple[tuple[SweepJob, Experiment], ...]
    """Jobs of this launch, run where they are missing; several may ask for different measurements of one model."""
    unloadable: dict[str, int] = field(default_factory=dict)
    """Number of jobs left out, by the reason why their model cannot be loaded."""

    @classmethod
    def plan(cls, configs: dict[tuple[str, ...], DictConfig]) -> "Sweep":
        """Check every job and join those of one model.

        A model that cannot be loaded costs its own jobs, as long as another model's jobs are left; so does a technique
        that raises while it is planned.

        Raises:
            ConfigError: the faults of all jobs together, each named once with the first job it stands in.
        """
        from slimsweep.pipeline.job import keep_no_cache_of_a_dry_run

        faults: dict[str, str] = {}
        launches: dict[tuple, tuple[SweepJob, Experiment]] = {}
        unloadable: dict[str, list[tuple[str, ...]]] = {}
        for overrides, config in configs.items():
            keep_no_cache_of_a_dry_run(config)
            experiment = None
            try:
                experiment = Experiment.of(*_task_of(config))
                experiment.check()
                job = SweepJob(experiment.key, experiment.label, list(overrides), list(experiment.asked))
                launches.setdefault((job.key, *sorted(job.measurements)), (job, experiment))
            except ConfigError as error:
                if experiment and set(error.faults) <= set(experiment.model.faults()):
                    unloadable.setdefault("; ".join(error.faults), []).append(overrides)
                    continue
                for fault in error.faults:
                    faults.setdefault(fault, " ".join(overrides))
            except (ModelError, StageError) as error:  # files that went away during the check, or a technique's own
                unloadable.setdefault(str(error), []).append(overrides)
        if faults or not launches:
            faults |= {reason: " ".join(jobs[0]) for reason, jobs in unloadable.items()}
        if not faults:
            experiment = next(experiment for _, experiment in launches.values())
            store = Store(experiment.outputs_dir)
            fault = None if True in (config.dry_run, config.trial) else store.fault()
            if fault:
                faults[fault] = ""
        if faults:
            raise ConfigError([f"{fault} [job: {job}]" if job else fault for fault, job in faults.items()])
        name = experiment.sweep or UNNAMED_SWEEP
        jobs = joined([job for job, _ in launches.values()])
        lost = {reason: len(lost) for reason, lost in unloadable.items()}
        return cls(name, store, jobs, tuple(launches.values()), lost)

    def show(self) -> None:
        """Print what a launch would do, and do nothing.

        Raises:
            SweepError: models of some jobs cannot be loaded.
        """
        states = [("done" if self.store.read(job.key, job.measurements) else "missing") for job in self.jobs]
        for job, state in zip(self.jobs, states, strict=True):
            print(f"{job.key[:16]}  {state:8} {job.label}")
        for reason, count in self.unloadable.items():
            print(f"{'-':16}  {'faulty':8} {count} jobs: {reason}")
        print(f"{self.name}: {len(self.jobs)} jobs, {states.count('done')} done, {states.count('missing')} to run")
        if count := sum(self.unloadable.values()):
            total = count + len(self.jobs)
            raise SweepError(f"{count} of {total} jobs of {self.name} cannot run: the reasons are above.")

    def tell_what_is_missing(self) -> None:
        """Print what a launch will run: each job that lacks something, with the measurements it lacks."""
        from slimsweep.pipeline.job import lacking

        whole = 0
        for job, experiment in self.launches:
            missing = list(dict.fromkeys(asked.name for asked in lacking(experiment, self.store).values()))
            is_new = self.store.model(job.key) is None
            if not missing and not is_new:
                whole += 1
                continue
            what = "a new model, measured by" if is_new else "only"
            print(f"{job.key[:16]}  {job.label}: {what} {', '.join(missing) or 'nothing'}")
        print(f"{self.name}: {len(self.launches) - whole} of {len(self.launches)} jobs lack something", flush=True)

    def open(self) -> list[list[str]]:
        """Write the sweep's own list of keys; returns the overrides of the jobs that have no record yet."""
        from slimsweep.pipeline.job import lacking, publish

        self._warn_of_other_jobs()
        for reason, count in self.unloadable.items():
            log.error("%d jobs left out, whose model cannot be loaded: %s", count, reason)
        with self.store.finishing(self.name):  # two launches that amend one sweep add to the same list
            self.store.open_sweep(self.name, list(self.listed()))
        missing = []
        for job, experiment in self.launches:
            record = self.store.read(job.key, job.measurements)
            if record and not lacking(experiment, self.store):
                publish(experiment, self.store, record)  # it may belong to one sweep more than before
            else:
                missing.append(job.overrides)
        log.info("%s: %d jobs, %d already recorded", self.name, len(self.jobs), len(self.jobs) - len(missing))
        labels = [experiment.label for job, experiment in self.launches if job.overrides in missing]
        watcher().sweep_started(self.name, labels, self._records())
        return missing

    def _records(self) -> list[dict[str, Any]]:
        """Records of this launch's jobs that are there."""
        return [record for job in self.jobs if (record := self.store.read(job.key, job.measurements))]

    def interrupted(self) -> str:
        """Tell what is recorded after a launch was ended."""
        states = [status.state for status in self.store.states(self.jobs)]
        return (
            f"{states.count('done')} of {len(states)} jobs of {self.name} are recorded and kept. Of the others, "
            "finished stages of the job at work are kept too."
        )

    def listed(self) -> tuple[SweepJob, ...]:
        """The jobs of the sweep's list: those of this launch, behind those there before where it amends the sweep."""
        is_amended = self.launches[0][1].amend and self.name in self.store.sweep_names()
        return joined([*(self.store.sweep_jobs(self.name) if is_amended else []), *self.jobs])

    def _warn_of_other_jobs(self) -> None:
        """Say so where a launch under a known name has other jobs: the records stay, the list and table do not."""
        if self.name not in self.store.sweep_names() or self.launches[0][1].amend:
            return
        before = {job.key for job in self.store.sweep_jobs(self.name)}
        if gone := before - {job.key for job in self.jobs}:
            log.warning(
                "%s had %d jobs, of which %d are not among the %d of this launch: its list and table are replaced, the "
                "records stay. To keep both, name this launch: sweep=NEW_NAME; to add to the list: amend=true",
                *(self.name, len(before), len(gone), len(self.jobs)),
            )

    def finish(self, errors: list[Exception]) -> Path:
        """Draw the table and figures, publish them, and mark the sweep complete.

        Raises:
            SweepError: jobs failed; names them with their reasons and the next command.
        """
        with self.store.finishing(self.name):
            return self._finish(errors)

    def _finish(self, errors: list[Exception]) -> Path:
        from slimsweep.records.table import render

        log.info("%s: drawing the table and the figures", self.name)
        states, listed = self.store.states(self.jobs), self.listed()
        records = [record for job in listed if (record := self.store.read(job.key, job.measurements))]
        table = render(records)
        write_text(self.store.outputs_dir / "tables" / f"{self.name}.md", table + "\n")
        write_text(self.store.outputs_dir / "tables" / f"{self.name}.csv", render(records, "csv") + "\n")
        if records:
            self.publish(records)
        print(f"\n{table}\n", flush=True)
        unfinished = [status for status in states if status.state != "done"]
        if unfinished or errors or self.unloadable:
            reasons = " ".join(job.reason for job in unfinished)
            # What raised outside a job's own run (a disk filling up, say) left no failure with a reason.
            others = dict.fromkeys(line for error in errors if (line := _first_line(error)) not in reasons)
            lines = "\n".join(f"  - {job.label}: {job.reason or job.state} ({job.log})" for job in unfinished)
            lost = [f"{count} jobs: {reason}" for reason, count in self.unloadable.items()]
            lines = "\n".join([lines, *(f"  - {line}" for line in (*lost, *others))]).lstrip("\n")
            count = sum(self.unloadable.values())
            raise SweepError(
                f"{len(unfinished) + count} of {len(states) + count} jobs of {self.name} have no record:\n{lines}\n"
                f"The others are recorded. `slim status {self.name}` shows them; the same command tries again."
            )
        if others := [job for job in self.store.states(listed) if job.state != "done"]:
            log.warning(
                "%s: %d jobs of earlier launches have no record; `slim status` names them", self.name, len(others)
            )
            return self.store.sweeps_dir / self.name / "jobs.json"
        return self.store.close_sweep(self.name, list(listed))

    def publish(self, records: list[dict]) -> None:
        """Draw the figures and mirror them and the table to the tracker, if anything is new."""
        tracker = self.launches[0][1].tracker
        shown = [list(record.get("identities", {}).values()) for record in records]
        state = {"tracker": repr(tracker), "keys": [record["key"] for record in records], "measurements": shown}
        marker = self.store.sweeps_dir / self.name / "published.json"
        known = Store.read_json(marker) or {}
        paths = [Path(path) for path in known.get("figures", [])]
        is_same = all(known.get(part) == state[part] for part in ("keys", "measurements"))
        is_drawn = is_same and all(path.is_file() for path in paths)
        if not is_drawn:
            paths = self.draw()
        state["figures"] = [str(path) for path in paths]
        if known == state:
            return
        if not tracker.publish_sweep(self.name, records, paths, self.store.outputs_dir):
            state["tracker"] = None  # the next launch sends it again, and does not draw it again
        if known != state:
            write_json(marker, state)

    def draw(self) -> list[Path]:
        """Every figure its records allow; a sweep the paper's figures do not read gets a folder of its own."""
        from slimsweep.figures import known, packages_of
        from slimsweep.figures import render as draw

        packages = packages_of([{"choices": experiment.choices} for _, experiment in self.launches])
        folder = self.store.outputs_dir / "figures"
        try:
            is_read = any(self.name in figure.SWEEPS for figure in known(packages)[0].values())
            return draw(self.store) if is_read else draw(self.store, sweeps=[self.name], folder=folder / self.name)
        except FigureError as error:  # of another package; it takes no finished sweep with it
            log.warning("not all figures were drawn, `slim figures` tries again: %s", error)
            return error.drawn
        except StoreError:  # nothing to draw: no ratio, or no quality measured
            return []


def joined(jobs: list[SweepJob]) -> tuple[SweepJob, ...]:
    """Jobs with one entry for each key, which asks for all that any of its entries did; in the order of the first."""
    found: dict[str, SweepJob] = {}
    for job in jobs:
        first = found.setdefault(job.key, job)
        measurements = list(dict.fromkeys([*first.measurements, *job.measurements]))
        found[job.key] = SweepJob(first.key, first.label, first.overrides, measurements)
    return tuple(found.values())


def _first_line(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return "; ".join(error.faults)
    return (str(error).splitlines() or [type(error).__name__])[0]


def _task_of(config: DictConfig) -> tuple[DictConfig, list[str], dict[str, Any]]:
    """A job's own settings, overrides and choices, as Hydra hands them to the job."""
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return own, list(config.hydra.overrides.task), choices_of(config.hydra)
