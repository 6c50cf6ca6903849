"""One process of golden.py: launches, one after another, through the console entry point of one checkout.

    python golden_worker.py LAUNCHES.json

It imports only the standard library and that entry point, and prints a JSON line after each launch.
"""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

COMMAND = "slimsweep"
"""Name of the console entry point, and of the package."""


def worker(path: Path) -> None:
    """Run launches one after another in this process through a side's entry point; a JSON line after each."""
    spec = json.loads(path.read_text())
    root = Path(spec["root"])
    # Without this folder, whose files have common names, and without a checkout that an editable install adds.
    here = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if _is_other_checkout(Path(entry or "."), root)]
    sys.path[:] = [entry for entry in sys.path if entry not in others and Path(entry).resolve() != here]
    report = os.fdopen(os.dup(1), "w", buffering=1)
    for launch in spec["launches"]:
        started = time.perf_counter()
        with Path(launch["log"]).open("w") as log:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            failure = _call(spec["entry"], root, launch["overrides"])
            sys.stdout.flush()
            sys.stderr.flush()
        outcome = {"name": launch["name"], "failure": failure, "seconds": time.perf_counter() - started}
        report.write(json.dumps(outcome | {"written": _written(Path(launch["outputs"]))}) + "\n")


def _is_other_checkout(entry: Path, root: Path) -> bool:
    """Whether a folder of sys.path holds the source of another checkout of this project."""
    return (entry / COMMAND).is_dir() and (entry.parent / "pyproject.toml").is_file() and root not in entry.parents


def _call(entry: str, root: Path, overrides: list[str]) -> str | None:
    """Call an entry point as its script does; returns the reason of a failure."""
    sys.argv = [COMMAND, *overrides]
    os.environ.pop("HYDRA_FULL_ERROR", None)  # a command may set it for itself
    try:
        module_name, function = entry.split(":")
        module = importlib.import_module(module_name)
        if root not in Path(module.__file__).resolve().parents:
            return f"{module_name} was imported from {module.__file__}, not from {root}"
        getattr(module, function)()
    except SystemExit as end:
        return None if end.code in (None, 0) else str(end.code)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _written(outputs: Path) -> dict[str, int]:
    """Every record below an outputs folder with the time it was written, in the order they were."""
    times = {str(path): path.stat().st_mtime_ns for path in outputs.rglob("record.json")}
    return dict(sorted(times.items(), key=lambda item: item[1]))


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
