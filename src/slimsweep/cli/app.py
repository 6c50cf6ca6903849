"""The command `slimsweep`: Hydra composes, this module runs the job and reports errors in one place."""

import atexit
import gc
import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slimsweep import progress
from slimsweep.cli.arguments import advice, from_shell
from slimsweep.cli.console import VERBOSE, quiet_other_libraries
from slimsweep.cli.live import shown
from slimsweep.errors import ConfigError, SlimsweepError
from slimsweep.hints import did_you_mean
from slimsweep.paths import config_root, project_path
from slimsweep.pipeline.compose import UNNAMED_SWEEP, choices_of, rounded
from slimsweep.records.store import Store

if TYPE_CHECKING:
    from slimsweep.pipeline.experiment import Experiment

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""
VERBOSE_OPTIONS = ("-v", "--verbose")
SHOW_CURSOR = b"\x1b[?25h"
"""Control sequence of terminals."""

OmegaConf.register_new_resolver("slimsweep.path", lambda path: str(project_path(path)), replace=True)
# Hydra makes the folder of a run before the job begins; a dry run and a trial make none.
OmegaConf.register_new_resolver(
    "slimsweep.run_folder",
    lambda path, *keeps_nothing: "." if True in keeps_nothing else str(project_path(path)),
    replace=True,
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
    words = sys.argv[1:]
    if set(words) & set(VERBOSE_OPTIONS):
        os.environ[VERBOSE] = "1"
    quiet_other_libraries()
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.argv[1:] = from_shell([word for word in words if word not in VERBOSE_OPTIONS])
        hydra.main(version_base="1.3", config_path=str(config_root() / "conf"), config_name="config")(job)()
    except (SlimsweepError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        sys.exit(f"slimsweep: {explain(error)}")
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        if wants_traceback:  # else most likely Hydra, which makes outputs_dir before any check of ours
            raise
        sys.exit(f"slimsweep: {error.filename}: {error.strerror}. Choose a folder to write to: outputs_dir=FOLDER")
    except KeyboardInterrupt as error:
        if wants_traceback:
            raise
        kept = str(error) or "Finished records and stages are kept."
        print(f"slimsweep: interrupted. {kept}\nGo on with: {shlex.join(['slimsweep', *words])}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        progress.stop(False)
        signal.signal(signal.SIGINT, before)
        gc.enable()


def _interrupt(_number: int, _frame: Any) -> None:
    """End the work in order at the first Ctrl-C; a second one kills the process."""
    signal.signal(signal.SIGINT, _kill)
    progress.stop(True)  # some libraries catch everything, this too
    raise KeyboardInterrupt


def _kill(_number: int, _frame: Any) -> None:
    """End the process at once, with the cursor that a live display had hidden."""
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), SHOW_CURSOR)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def composed(overrides: list[str]) -> DictConfig:
    """The config of conf/config.yaml with these overrides, open to further settings.

    Raises:
        ConfigError: an override does not fit.
    """
    try:
        with initialize_config_dir(str(config_root() / "conf"), version_base="1.3", job_name="slimsweep"):
            config = compose("config", overrides)
    except HydraException as error:
        raise ConfigError([explain(error)]) from error
    OmegaConf.set_struct(config, False)
    return config


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
        lines.append(did_you_mean(wanted.name, options))
    return "\n".join(line for line in lines if line.strip())


def _settings_beside(error: OmegaConfBaseException) -> list[str]:
    """Lines that name the settings near one that does not exist; none for other errors."""
    parent, key = error.parent_node, str(error.key)
    if not isinstance(parent, DictConfig) or key in parent:
        return []
    if error.full_key == "technique":
        return ["No technique is chosen that could have this setting: choose one too, with technique=NAME."]
    options = sorted(name for name in map(str, parent) if name not in ("_target_", "hydra"))
    return [f"There is no '{error.full_key}'; there are: {', '.join(options)}", did_you_mean(key, options)]


def choices(group: Path) -> list[str]:
    """Names that a config group offers in this project."""
    folders = (config_root() / "conf" / group, config_root() / group)
    return sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))


def job(config: DictConfig) -> str | None:
    """Run one composed experiment, or find its record; returns the path of record.json."""
    # These import torch and tqdm, which read the environment that `main` sets.
    from slimsweep.pipeline.experiment import Experiment
    from slimsweep.pipeline.job import keep_no_cache_of_a_dry_run, perform

    hydra_config = HydraConfig.get()
    keep_no_cache_of_a_dry_run(config)
    refuse_grids_of_one_job(hydra_config)
    experiment = Experiment.of(config, list(hydra_config.overrides.task), choices_of(hydra_config))
    experiment.check()
    warn_of_idle_ratio(experiment, config, list(hydra_config.overrides.task))
    store = Store(experiment.outputs_dir)
    if config.dry_run:
        state = "done" if store.read(experiment.key, experiment.asked) else "missing"
        print(f"{experiment.key[:16]}  {state:8} {experiment.label}")
        return None
    if config.trial:
        from slimsweep.pipeline import trial

        return trial.of_job(experiment)
    fault = store.fault()
    if fault:
        raise ConfigError([fault])
    with shown():
        path = perform(experiment, store)
    if hydra_config.mode is RunMode.RUN:  # a sweep's lines of events name its records
        print(path, flush=True)
    return str(path)


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


def warn_of_idle_ratio(experiment: "Experiment", config: DictConfig, overrides: list[str]) -> None:
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


if __name__ == "__main__":
    main()
