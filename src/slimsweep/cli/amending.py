"""The launch behind `slim amend`: the jobs of a sweep's list once more, with more to measure or other settings."""

import sys
from pathlib import Path

from slimsweep.errors import StoreError
from slimsweep.records.store import Store

KEPT = ("sweep", "+sweeps", "amend", "outputs_dir")
"""Settings that amending gives itself."""


def words_of(store: Store, sweep: str, settings: list[str], config_dir: Path | None = None) -> list[str]:
    """Words of the command `slimsweep` that amends a sweep.

    Raises:
        StoreError: no such sweep, or a setting that is none.
    """
    jobs = store.sweep_jobs(sweep)
    if wrong := [word for word in settings if "=" not in word and not word.startswith("~")]:
        raise StoreError(f"{' '.join(wrong)}: give settings as KEY=VALUE, such as +metric=fidelity or seed=1,2")
    if taken := [word for word in settings if word.partition("=")[0] in KEPT]:
        raise StoreError(
            f"{' '.join(taken)}: amending keeps the sweep and its folder; launch slimsweep for another one"
        )
    records = [record for job in jobs if (record := store.read(job.key))]
    packages = dict.fromkeys(name for one in records for name in (one.get("choices") or {}).get("packages") or [])
    path = [f"hydra.searchpath=[{','.join(f'pkg://{name}' for name in packages)}]"] if packages else []
    own = [f"hydra.sweeper.amends={sweep}", f"sweep={sweep}", "amend=true", f"outputs_dir={store.outputs_dir}"]
    folder = ["--config-dir", str(config_dir)] if config_dir else []
    return [*folder, "-m", *path, *own, *settings]


def launch(store: Store, sweep: str, settings: list[str], config_dir: Path | None = None) -> None:
    """Run `slimsweep` in this process; it ends the process with a status after an error, as that command does."""
    from slimsweep.cli.app import main

    before = sys.argv
    sys.argv = ["slimsweep", *words_of(store, sweep, settings, config_dir)]
    try:
        main()
    finally:
        sys.argv = before
