"""The command `slimsweep`: Hydra composes, this module runs the job and reports errors in one place."""

import atexit
import difflib
import functools
import gc
import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slimsweep.cli.arguments import advice, from_shell
from slimsweep.errors import ConfigError, SlimsweepError
from slimsweep.paths import config_root, project_path
from slimsweep.pipeline.compose import rounded
from slimsweep.pipeline.experiment import Experiment
from slimsweep.records.record import write_json
from slimsweep.records.store import Store

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""
UNNAMED_SWEEP = "multirun"
"""Name of a sweep given on the command line (`-m`) without `sweep=NAME`."""

OmegaConf.register_new_resolver("slimsweep.path", lambda path: str(project_path(path)), replace=True)
# Hydra makes the folder of a run before the job begins; a dry run makes none.
OmegaConf.register_new_resolver(
    "slimsweep.run_folder", lambda path, dry_run: "." if dry_run is True else str(project_path(path)), replace=True
)
OmegaConf.register_new_resolver("slimsweep.env", lambda name, default: os.environ.get(name) or default, replace=True)
OmegaConf.register_new_resolver("slimsweep.sweep", lambda name: name or UNNAMED_SWEEP, replace=True)


def main() -> None:
    """Entry point of `slimsweep`: 0 when everything asked for is recorded, 1 after any error, 130 after Ctrl-C."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and every error is told here
    # Threads that wait by spinning make two jobs on one machine many times slower; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()  # what imports make stays, and looking through it takes a quarter of a second; until perform
    atexit.register(gc.freeze)  # nor need it be looked through when the interpreter ends: half a second
    try:
        sys.argv[1:] = from_shell(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(config_root() / "conf"), config_name="config")(job)()
    except (SlimsweepError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        sys.exit(f"slimsweep: {explain(error)}")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        if wants_traceback:  # else most likely Hydra, which makes outputs_dir before any check of ours
            raise
        sys.exit(f"slimsweep: {error.filename}: {error.strerror}. Choose a folder to write to: outputs_dir=FOLDER")
    except KeyboardInterrupt:
        if wants_traceback:
            raise
        print(
            "slimsweep: interrupted. Finished records are kept; the same command goes on from there.", file=sys.stderr
        )
        sys.exit(INTERRUPTED)
    finally:
        gc.enable()


def explain(error: Exception) -> str:
    """The message of an error, with its cause and, for an unknown choice, the list and the nearest names."""
    if isinstance(error, OverrideParseException):
        return advice(error)
    message = str(error).split("Config search path:")[0].strip()
    lines = [line for line in message.splitlines() if not line.startswith("To append to your config use")]
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        reason = str(cause).strip()
        lines += _settings_beside(cause) or ([] if reason.splitlines()[0] in message else [reason])
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        wanted = Path(error.missing_cfg_file)
        options = list(error.options or ())
        if not options:  # Hydra gives none for a member of a list such as technique=[...]
            options = [*choices(wanted.parent)]
            lines += [f"Available options in '{wanted.parent}':", *(f"\t{option}" for option in options)]
        near = difflib.get_close_matches(wanted.name, options, n=3, cutoff=0.5)
        lines += [f"Did you mean: {' or '.join(near)}?"] if near else []
    return "\n".join(line for line in lines if line.strip())


def _settings_beside(error: OmegaConfBaseException) -> list[str]:
    """What a setting that does not exist may have meant; nothing for other errors."""
    parent, key = error.parent_node, str(error.key)
    if not isinstance(parent, DictConfig) or key in parent:
        return []
    if error.full_key == "technique":
        return ["No technique is chosen that could have this setting: choose one too, with technique=NAME."]
    options = sorted(name for name in map(str, parent) if name not in ("_target_", "hydra"))
    near = difflib.get_close_matches(key, options, n=3, cutoff=0.5)
    lines = [f"There is no '{error.full_key}'; there are: {', '.join(options)}"]
    return lines + ([f"Did you mean: {' or '.join(near)}?"] if near else [])


def choices(group: Path) -> list[str]:
    """Names that a config group offers in this project."""
    folders = (config_root() / "conf" / group, config_root() / group)
    return sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))


def job(config: DictConfig) -> str | None:
    """Run one composed experiment, or find its record; returns the path of record.json."""
    hydra_config = HydraConfig.get()
    keep_no_cache_of_a_dry_run(config)
    refuse_grids_of_one_job(hydra_config)
    experiment = Experiment.of(config, list(hydra_config.overrides.task), dict(hydra_config.runtime.choices))
    experiment.check()
    warn_of_idle_ratio(experiment, config, list(hydra_config.overrides.task))
    store = Store(experiment.outputs_dir)
    if config.dry_run:
        state = "done" if store.read(experiment.key, experiment.asked) else "missing"
        print(f"{experiment.key[:16]}  {state:8} {experiment.label}")
        return None
    fault = store.fault()
    if fault:
        raise ConfigError([fault])
    path = perform(experiment, store)
    print(path, flush=True)
    return str(path)


def keep_no_cache_of_a_dry_run(config: DictConfig) -> None:
    """Let a dry run read what `cache_dir` holds and add nothing to it."""
    if config.get("dry_run") is True and config.get("cache_dir"):
        config.cache_dir = _throwaway_cache(config.cache_dir)


@functools.cache
def _throwaway_cache(cache_dir: str) -> str:
    """A temporary folder, removed at exit, with links to what a cache holds."""
    folder = Path(tempfile.mkdtemp(prefix="slimsweep-dry-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for part in Path(cache_dir).absolute().glob("*/"):
        (folder / part.name).mkdir()
        for entry in part.iterdir():
            if not entry.name.endswith((".lock", ".partial")):  # a lock must not be a link
                (folder / part.name / entry.name).symlink_to(entry)
    return str(folder)


def refuse_grids_of_one_job(hydra_config: DictConfig) -> None:
    """Refuse to run one job where the settings hold a sweep.

    Raises:
        ConfigError: there are grids, and the mode is not MULTIRUN.
    """
    grids = [grid for grid in hydra_config.sweeper.get("grids") or [] if grid]
    if grids and hydra_config.mode is not RunMode.MULTIRUN:
        raise ConfigError(
            [
                f"hydra.sweeper.grids has {len(grids)} grids, but this launch would run one job: add `mode: MULTIRUN` "
                "below `hydra:` in the file with the grids, or launch with -m"
            ]
        )


def warn_of_idle_ratio(experiment: Experiment, config: DictConfig, overrides: list[str]) -> None:
    """Say so where a ratio was asked for that no stage reads: none has one, or a pattern sets it."""
    if any(override.startswith("ratio=") for override in overrides) and rounded(config.ratio) not in experiment.ratios:
        why = (
            f"{experiment.chain} has the ratio {experiment.ratios[0]:g} by its settings"
            if experiment.ratios
            else (
                f"{experiment.chain} has none" + ("; choose one with technique=NAME" if not experiment.stages else "")
            )
        )
        log.warning("ratio=%s changes nothing: %s", config.ratio, why)


def perform(experiment: Experiment, store: Store) -> Path:
    """Compute what an experiment's record lacks, publish it, and return its path."""
    gc.enable()
    folder = store.folder(experiment.key)
    with store.claim(experiment.key), logged(folder / "job.log"):
        record = store.read(experiment.key, experiment.asked)
        is_stale = record is not None and experiment.fresh and record["sources"]
        if record is None or is_stale:
            record = complete(experiment, store)
        else:
            log.info("%s%s: already recorded", position(experiment, store), experiment.label)
            if store.read(experiment.key) != record:  # shown until now: other measurements
                store.write(record, store.layers(experiment.key))
            if experiment.save_model and not (folder / "model").is_dir():
                log.info("its model was not kept; recompute it with: slim save %s FOLDER", experiment.key[:8])
        publish(experiment, store, record)
    return folder / "record.json"


def complete(experiment: Experiment, store: Store) -> dict:
    """Measure what is missing of an experiment, on its model where that is needed; returns the record."""
    from slimsweep.pipeline.run import borrowed, run

    key, folder, before = experiment.key, store.folder(experiment.key), store.model(experiment.key)
    known = store.measured(key)
    missing = {
        identity: asked
        for identity, asked in experiment.asked.items()
        if identity not in known or (experiment.fresh and known[identity]["source"])
    }
    words = ", ".join(dict.fromkeys(asked.name for asked in missing.values()))
    log.info("%s%s%s", position(experiment, store), experiment.label, f": only {words}" if before else "")
    try:
        found = borrowed(experiment, store, missing)
        missing = {identity: asked for identity, asked in missing.items() if identity not in {*_identities(found)}}
        if before and not missing:
            return store.add(before, store.layers(key), found, experiment.asked)
        save_to = folder / "model" if experiment.save_model else None
        if save_to:
            shutil.rmtree(save_to, ignore_errors=True)  # left by a job that was killed
        ran = run(experiment, store, missing, save_to)
        return store.add(ran.model, ran.layers, [*found, *ran.measured], experiment.asked)
    except Exception as error:
        # The job's own log keeps the traceback: Hydra shows only the first failure of a multirun.
        log.error("failed: %s\n%s", experiment.label, traceback.format_exc())
        store.write_failure(key, f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def _identities(measured: list[dict]) -> list[str]:
    return [one["identity"] for one in measured]


def publish(experiment: Experiment, store: Store, record: dict) -> None:
    """Mirror a record to the tracker, once for each set of sweeps it belongs to and of measurements it shows."""
    sweeps = store.sweeps_of(experiment.key)
    marker = store.folder(experiment.key) / "published.json"
    shown = list(dict.fromkeys(record.get("identities", {}).values()))
    state = {"tracker": repr(experiment.tracker), "sweeps": sweeps, "measurements": shown}
    if Store.read_json(marker) != state and experiment.tracker.publish(record, sweeps, store.outputs_dir):
        write_json(marker, state)


def position(experiment: Experiment, store: Store) -> str:
    """`[3/28] ` for a job of a sweep, else nothing."""
    if experiment.sweep is None or experiment.sweep not in store.sweep_names():
        return ""
    keys = [entry.key for entry in store.sweep_jobs(experiment.sweep)]
    return f"[{keys.index(experiment.key) + 1}/{len(keys)}] " if experiment.key in keys else ""


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Copy everything logged inside to a job's own file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


if __name__ == "__main__":
    main()
