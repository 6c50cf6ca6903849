"""One job from its claim to its published record: found or computed, logged, mirrored."""

import atexit
import functools
import gc
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from slimsweep.paths import STANDS_FOR
from slimsweep.pipeline.experiment import Asked, Experiment
from slimsweep.progress import watcher
from slimsweep.records.record import RECORD_FILE, write_json
from slimsweep.records.store import Store

log = logging.getLogger(__name__)


def keep_no_cache_of_a_dry_run(config: DictConfig) -> None:
    """Let a dry run read what `cache_dir` holds and add nothing to it."""
    if config.get("dry_run") is True and config.get("cache_dir"):
        config.cache_dir = _throwaway_cache(config.cache_dir)


@functools.cache
def _throwaway_cache(cache_dir: str) -> str:
    """A temporary folder, removed at exit, with links to what a cache holds."""
    folder = Path(tempfile.mkdtemp(prefix="slimsweep-dry-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / STANDS_FOR).symlink_to(Path(cache_dir).absolute())
    for part in Path(cache_dir).absolute().glob("*/"):
        (folder / part.name).mkdir()
        for entry in part.iterdir():
            if not entry.name.endswith((".lock", ".partial")):  # a lock must not be a link
                (folder / part.name / entry.name).symlink_to(entry)
    return str(folder)


def perform(experiment: Experiment, store: Store) -> Path:
    """Compute what an experiment's record lacks, publish it, and return its path."""
    gc.enable()
    folder = store.folder(experiment.key)
    with store.claim(experiment.key), logged(folder / "job.log"):
        missing = lacking(experiment, store)
        record = store.read(experiment.key, experiment.asked)
        if record is None or missing:
            record = complete(experiment, store, missing)
        else:
            log.info("%s%s: already recorded", position(experiment, store), experiment.label)
            watcher().job_finished(experiment.label, record, 0.0)
            if store.read(experiment.key) != record:  # shown until now: other measurements
                store.finish(experiment.key, experiment.asked)
            if experiment.save_model and not (folder / "model").is_dir():
                log.info("its model was not kept; recompute it with: slim save %s FOLDER", experiment.key[:8])
        publish(experiment, store, record)
    return folder / "record.json"


def lacking(experiment: Experiment, store: Store) -> dict[str, Asked]:
    """Measurements that an experiment asks for and that are not there, or are to be made again."""
    from slimsweep.pipeline.run import is_stale

    known = store.measured(experiment.key)
    return {
        identity: asked
        for identity, asked in experiment.asked.items()
        if identity not in known or is_stale(experiment, asked, known[identity])
    }


def complete(experiment: Experiment, store: Store, missing: dict[str, Asked]) -> dict:
    """Measure what is missing of an experiment, on its model where that is needed; returns the record."""
    from slimsweep.pipeline.run import borrowed, run

    key, folder, before = experiment.key, store.folder(experiment.key), store.model(experiment.key)
    words = ", ".join(dict.fromkeys(asked.name for asked in missing.values()))
    log.info("%s%s%s", position(experiment, store), experiment.label, f": only {words}" if before else "")
    watcher().job_started(experiment.label)
    started = time.perf_counter()
    try:
        measure_before(experiment, store)
        for one in borrowed(experiment, store, missing):
            store.keep(key, one)
            del missing[one["identity"]]
        if before is None or missing or store.layers(key) is None:
            save_to = folder / "model" if experiment.save_model else None
            if save_to:
                shutil.rmtree(save_to, ignore_errors=True)  # left by a job that was killed
            run(experiment, store, missing, save_to)
        record = store.finish(key, experiment.asked)
        if (folder / "model").is_dir():  # the kept model tells which run made it
            write_json(folder / "model" / RECORD_FILE, record)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        # The job's own log keeps the traceback: Hydra shows only the first failure of a multirun.
        log.error("failed: %s: %s (%s)", experiment.label, reason, folder / "job.log", exc_info=True)
        store.write_failure(key, reason)
        publish_failure(experiment, store, reason)
        watcher().job_failed(experiment.label, reason)
        raise
    seconds = time.perf_counter() - started
    place = position(experiment, store)
    log.info("%srecorded: %s in %.1f s: %s", place, experiment.label, seconds, folder / "record.json")
    watcher().job_finished(experiment.label, record, seconds)
    return record


def measure_before(experiment: Experiment, store: Store) -> None:
    """Measure the qualities of the model before its last training stage, where its record lacks them."""
    from slimsweep.pipeline.run import run

    earlier = experiment.before_training
    if earlier is None or experiment.model.weights == "meta":
        return
    with store.claim(earlier.key):
        known = store.measured(earlier.key)
        missing = {
            identity: asked
            for identity, asked in earlier.asked.items()
            if identity not in known and any(one.group == "quality" for one in asked.metric.quantities())
        }
        if not missing:
            return
        log.info("measuring %s first, to tell what training gains", earlier.label)
        run(earlier, store, dict(missing))
        if store.read(earlier.key) is None:
            measured = store.measured(earlier.key)
            store.finish(earlier.key, [identity for identity in earlier.asked if identity in measured])


def publish(experiment: Experiment, store: Store, record: dict) -> None:
    """Mirror a record to the tracker, once for each set of sweeps it belongs to and of measurements it shows."""
    sweeps = store.sweeps_of(experiment.key)
    marker = store.folder(experiment.key) / "published.json"
    shown = list(dict.fromkeys(record.get("identities", {}).values()))
    state = {"tracker": repr(experiment.tracker), "sweeps": sweeps, "measurements": shown}
    if Store.read_json(marker) != state and experiment.tracker.publish(record, sweeps, store.outputs_dir):
        write_json(marker, state)


def publish_failure(experiment: Experiment, store: Store, reason: str) -> None:
    """Tell the tracker that a job failed; where its model has a record, as an alert of this record's run."""
    key, record = experiment.key, store.read(experiment.key)
    (store.folder(key) / "published.json").unlink(missing_ok=True)  # the next success takes the alert away
    if record is None:
        experiment.tracker.publish_failure(key, experiment.label, reason, store.outputs_dir)
    else:  # a run of the failure would have the id of the record's run, and replace it
        experiment.tracker.publish(record, store.sweeps_of(key), store.outputs_dir)


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
