"""Compare the results of a base commit with those of the working tree, bit for bit, over small experiments.

    .venv/bin/python benchmarks/golden.py BASE [--only NAME,...] [--allow NAME,...] [--keep FOLDER]

The base is checked out into a temporary git worktree. Both sides run the same experiments through their console entry
point, with one thread count and one dtype, and are compared by their record.json files only: weights, counts,
perplexities, accuracies. Times, memory, versions and settings are not compared. The exit status is 1 where something
moved that `--allow` does not name, or where an experiment fails at HEAD.

Each side has one process for the first launches of all experiments and one for the second launches of the resumes,
since a process spends 5 s on imports. Experiments are in golden_experiments.py; where a key or a field has another name
at HEAD, say so there (`base=`, `head=`) or in golden_comparison.py (`RENAMED`).
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golden_comparison import GROUPS, NOT_COMPARED, Result, Verdict, record_fields, table
from golden_experiments import EXPERIMENTS, Experiment
from golden_worker import COMMAND

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
LOG_LINES = 15
"""Lines of a failed launch's log that are shown."""


@dataclass
class Side:
    """A checkout, and how its experiments run."""

    name: str
    root: Path
    python: str
    folder: Path
    dtype: str
    threads: int
    cache_dir: Path | None = None
    """Cache of converted weights and of stages; None: one below `folder`."""

    def run(self, experiments: list[Experiment]) -> Iterator[tuple[str, Result]]:
        """Results as they come; those of two launches after all others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        first = {}
        for name, outcome in self.launch(experiments, 0):
            first[name] = outcome
            experiment = next(one for one in experiments if one.name == name)
            if len(experiment.launches) == 1 or outcome["failure"]:
                yield name, self._result(name, outcome)
        again = [one for one in experiments if len(one.launches) == 2 and not first[one.name]["failure"]]
        for name, outcome in self.launch(again, 1):
            yield name, self._result(name, outcome, first[name])

    def launch(self, experiments: list[Experiment], position: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """One launch of each experiment, all in one process, and in another those that a dying one left."""
        left = [self._spec(one, position) for one in experiments]
        while left:
            spec = self.folder / "launches.json"
            spec.write_text(json.dumps({"root": str(self.root), "entry": self._entry(), "launches": left}))
            command = [self.python, str(HERE / "golden_worker.py"), str(spec)]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=self._environment(), cwd=self.folder
            )
            try:
                for line in process.stdout:
                    outcome = json.loads(line)
                    yield left.pop(0)["name"], outcome
                status = process.wait()
            finally:
                process.kill()
                process.wait()
            if left:
                reason = f"its process ended with status {status}"
                yield left.pop(0)["name"], {"failure": reason, "seconds": 0.0, "written": {}}

    def _spec(self, experiment: Experiment, position: int) -> dict[str, Any]:
        outputs = self.folder / experiment.name
        outputs.mkdir(exist_ok=True)
        places = [
            f"outputs_dir={outputs}",
            f"cache_dir={self.cache_dir or self.folder / 'cache'}",
            f"dtype={self.dtype}",
        ]
        return {
            "name": experiment.name,
            "overrides": experiment.overrides(self.name, position) + places,
            "outputs": str(outputs),
            "log": str(self._log(experiment.name, position)),
        }

    def _log(self, name: str, position: int) -> Path:
        return self.folder / f"{name}.{position}.log"

    def _entry(self) -> str:
        return tomllib.loads((self.root / "pyproject.toml").read_text())["project"]["scripts"][COMMAND]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLIMSWEEP_", "WANDB_"))}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
        return kept | threads | offline | {"PYTHONPATH": str(self.root / "src"), "OMP_WAIT_POLICY": "PASSIVE"}

    def _result(self, name: str, last: dict[str, Any], first: dict[str, Any] | None = None) -> Result:
        """The fields of the last launch's records; of a resume also what it left alone and what it said."""
        seconds = last["seconds"] + (first["seconds"] if first else 0.0)
        path = self._log(name, 1 if first else 0)
        log = path.read_text(errors="replace") if path.is_file() else ""
        if last["failure"]:
            lines = log.splitlines()[-LOG_LINES:]
            return Result(failure=" ".join(last["failure"].split()), seconds=seconds, log="\n".join(lines))
        written, before = last["written"], (first or {"written": {}})["written"]
        records = [path for path in written if path not in before] or list(written)
        fields: dict[str, Any] = {}
        for position, path in enumerate(records):
            prefix = f"{position}." if len(records) > 1 else ""
            content = record_fields(json.loads(Path(path).read_text()))
            fields |= {prefix + key: value for key, value in content.items()}
        if not fields:
            return Result(failure="it left no record", seconds=seconds)
        if first:
            fields["records"] = len(written)
            fields["rewritten"] = any(written.get(path) != moment for path, moment in before.items())
            fields["already_recorded"] = "already recorded" in log
        return Result(fields, seconds=seconds)


@dataclass(frozen=True)
class Kept:
    """Folder of results of a base commit, one file an experiment, valid for the setting they were made with."""

    folder: Path | None
    setting: dict[str, Any]

    def read(self, experiment: Experiment) -> Result | None:
        path = self._path(experiment)
        if not (path and path.is_file()):
            return None
        content = json.loads(path.read_text())
        return Result(content["fields"]) if content["setting"] == self._setting(experiment) else None

    def write(self, experiment: Experiment, result: Result) -> None:
        path = self._path(experiment)
        if path and not result.failure:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"setting": self._setting(experiment), "fields": result.fields}, indent=1))

    def _path(self, experiment: Experiment) -> Path | None:
        named = "-".join(str(self.setting[name]) for name in ("commit", "dtype", "threads"))
        return self.folder / named / f"{experiment.name}.json" if self.folder else None

    def _setting(self, experiment: Experiment) -> dict[str, Any]:
        launches = [experiment.overrides("base", position) for position in range(len(experiment.launches))]
        fields = {"groups": GROUPS, "not_compared": NOT_COMPARED}
        return self.setting | {"launches": launches} | fields


def git(*arguments: str) -> str:
    """Output of a git command in this checkout; ends the program with git's own message where it fails."""
    ran = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"golden: git {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout.strip()


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A git worktree of a commit, removed at the end."""
    git("worktree", "add", "--detach", "--quiet", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def machine(python: str) -> str:
    """Processor, and version of an interpreter and its torch: last bits depend on them."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else []
    about = "import importlib.metadata as m, sys; print(sys.version.split()[0], m.version('torch'))"
    versions = subprocess.run([python, "-c", about], capture_output=True, text=True).stdout.split()
    return " ".join([names[0].strip() if names else platform.processor(), *versions])


def chosen(given: argparse.Namespace) -> list[Experiment]:
    """The experiments that were asked for and whose packages are installed."""
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    only = given.only.split(",") if given.only else list(known)
    allowed = [name.split(".")[0] for name in given.allow.split(",") if name]
    if unknown := [name for name in (*only, *allowed) if name not in known]:
        sys.exit(f"golden: no experiment {', '.join(unknown)}; there are {', '.join(known)}")
    left_out = [name for name in only if (package := known[name].needs) and not importlib.util.find_spec(package)]
    for name in left_out:
        print(f"{name}: left out, {known[name].needs} is not installed")
    return [one for one in EXPERIMENTS if one.name in only and one.name not in left_out]


def results(given: argparse.Namespace, experiments: list[Experiment], commit: str) -> dict[str, tuple[Result, Result]]:
    """Both sides' results by experiment: the base's, kept ones among them, then HEAD's."""
    base_python = given.base_python or sys.executable
    setting = {"commit": commit, "dtype": given.dtype, "threads": given.threads, "machine": machine(base_python)}
    kept = Kept(Path(given.keep).resolve() if given.keep else None, setting)
    base = {one.name: result for one in experiments if (result := kept.read(one))}
    for name in base:
        print(f"base  {name:24} kept", flush=True)
    missing = [one for one in experiments if one.name not in base]
    known = {one.name: one for one in experiments}
    head = {}
    with tempfile.TemporaryDirectory(prefix="golden-") as temporary:
        folder = Path(temporary).resolve()
        if missing:
            with checked_out(commit, folder / "checkout") as root:
                side = Side("base", root, base_python, folder / "base", given.dtype, given.threads)
                for name, result in side.run(missing):
                    print(f"base  {name:24} {result.seconds:6.1f} s  {result.failure or ''}", flush=True)
                    base[name] = result
                    kept.write(known[name], result)
        side = Side("head", PROJECT, sys.executable, folder / "head", given.dtype, given.threads)
        for name, result in side.run(experiments):
            head[name] = result
            word = Verdict(name, base[name], result, given.allowed).word
            print(f"HEAD  {name:24} {result.seconds:6.1f} s  {word}", flush=True)
    return {one.name: (base[one.name], head[one.name]) for one in experiments}


def summary(given: argparse.Namespace, commit: str, verdicts: list[Verdict]) -> str:
    """One line: how many experiments had which verdict, and what was compared."""
    words = [verdict.word for verdict in verdicts]
    counts = "; ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(["identical", *words]))
    changed = "+" if git("status", "--porcelain") else ""
    threads = f"{given.threads} thread{'' if given.threads == 1 else 's'}"
    sides = f"base {commit[:12]}, HEAD {git('rev-parse', 'HEAD')[:12]}{changed}"
    return f"{len(verdicts)} experiments: {counts}; {sides}, {given.dtype}, {threads}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", help="commit, branch or tag to compare the working tree with")
    parser.add_argument("--base-python", help="interpreter of the base, where it needs other packages")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", default="", help="names of experiments, separated by commas")
    parser.add_argument("--allow", default="", help="experiments, or fields as NAME.FIELD, that may move")
    parser.add_argument("--keep", help="folder where results of the base are kept for the next call")
    parser.add_argument("--list", action="store_true", help="print the experiments and stop")
    given = parser.parse_args()
    experiments = chosen(given)
    if given.list:
        for experiment in experiments:
            print(f"{experiment.name:24} {'; then '.join(' '.join(launch) for launch in experiment.launches)}")
        return
    if not given.base:
        parser.error("name the commit to compare with, e.g. golden.py HEAD~1")
    if given.base_python and not shutil.which(given.base_python):
        parser.error(f"--base-python {given.base_python} is no program: name a Python with the base's packages")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("golden: terminated"))  # so that the worktree is removed
    started = time.perf_counter()
    given.allowed = frozenset(given.allow.split(",")) - {""}
    commit = git("rev-parse", "--verify", f"{given.base}^{{commit}}")
    found = results(given, experiments, commit)
    verdicts = [Verdict(name, *pair, given.allowed) for name, pair in found.items()]
    print(f"\n{table(verdicts)}\n\n{summary(given, commit, verdicts)}; {time.perf_counter() - started:.0f} s")
    for verdict in verdicts:
        for side, result in (("base", verdict.base), ("HEAD", verdict.head)):
            if result.failure:
                print(f"\n{verdict.name} at {side} ended so:\n{result.log}")
    faults = [verdict.name for verdict in verdicts if verdict.is_fault]
    if faults:
        sys.exit(f"golden: not as at the base: {', '.join(faults)}")


if __name__ == "__main__":
    main()
