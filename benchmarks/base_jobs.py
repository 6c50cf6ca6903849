"""Whole jobs of the working tree beside those of a base commit, in turn: no job may become more than 5 % slower.

    .venv/bin/python benchmarks/base_jobs.py BASE [--only NAME,...] [--rounds 3]

A run is one process: a small job that loads what a process loads once, then the job, from its command line to its
record. The table has medians of the whole job and of compressing alone, and their ratios; above 1, the working tree is
faster. The exit status is 1 where a whole job is below 0.95.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import measuring
import torch
from golden import PROJECT, Side, checked_out, git
from golden_experiments import Experiment

GOAL = 0.95
MODEL = (
    "model=smollm2_135m",
    "calibration.sequences=8",
    "calibration.tokens=512",
    "evaluation.max_windows=4",
    "evaluation.task_limit=10",
    "evaluation.new_tokens=8",
    "evaluation.repeats=1",
)
WARM_UP = Experiment("warm_up", (("technique=sparsegpt", "ratio=0.5"),))


def job(name: str, *overrides: str) -> Experiment:
    """One job on SmolLM2 with short texts."""
    return Experiment(name, (overrides,), model=MODEL)


JOBS = (
    job("dense", "technique=[]"),
    job("magnitude", "technique=magnitude", "ratio=0.5"),
    job("wanda", "technique=wanda", "ratio=0.5"),
    job("sparsegpt", "technique=sparsegpt", "ratio=0.5"),
    job("rtn", "technique=rtn", "technique.rtn.group_size=64"),
    job("gptq", "technique=gptq", "technique.gptq.group_size=64"),
    job("awq", "technique=awq", "technique.awq.group_size=64"),
    job("squeezellm", "technique=squeezellm"),
    job("nf4", "technique=nf4"),
    job("llm_pruner", "technique=llm_pruner", "ratio=0.25"),
    job("layers", "technique=layers", "ratio=0.25"),
    job("heads", "technique=heads", "ratio=0.25"),
    job("wanda_gptq", "technique=[wanda,gptq]", "ratio=0.5", "technique.gptq.group_size=64"),
)


@dataclass
class Times:
    """Seconds of one job at one side, a number for each round."""

    whole: list[float] = field(default_factory=list)
    compressing: list[float] = field(default_factory=list)


def run(side: Side, experiment: Experiment, times: Times) -> None:
    """Run a job once in a process of its own, after the job that warms the process up."""
    side.folder.mkdir(parents=True, exist_ok=True)
    outcome = dict(side.launch([WARM_UP, experiment], 0))[experiment.name]
    if outcome["failure"] or not outcome["written"]:
        sys.exit(f"base_jobs: {experiment.name} at {side.name} left no record: {outcome['failure']}")
    record = json.loads(Path(list(outcome["written"])[-1]).read_text())
    times.whole.append(outcome["seconds"])
    times.compressing.append(record["compress_seconds"])


def row(name: str, base: Times, head: Times) -> tuple[str, bool]:
    """Row of the table, and whether the whole job keeps the goal."""
    whole, compressing = (
        [statistics.median(getattr(side, part)) for side in (base, head)] for part in ("whole", "compressing")
    )
    ratio, met = whole[0] / whole[1], whole[0] / whole[1] >= GOAL
    alone = f"{compressing[0] / compressing[1]:.2f}x" if compressing[1] else "-"
    cells = [name, *(measuring.format_seconds(side.whole) for side in (base, head)), f"{ratio:.2f}x"]
    cells += [*(measuring.format_seconds(side.compressing) for side in (base, head)), alone, measuring.met(met)]
    return f"| {' | '.join(cells)} |", met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="commit, branch or tag to compare the working tree with")
    parser.add_argument("--base-python", default=sys.executable, help="interpreter with the base's packages")
    parser.add_argument("--only", default="", help=f"some of {', '.join(one.name for one in JOBS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    only = given.only.split(",") if given.only else [one.name for one in JOBS]
    if unknown := set(only) - {one.name for one in JOBS}:
        parser.error(f"no job {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in JOBS)}")
    measuring.loaded(measuring.experiment(*MODEL[:1]))  # converted once, for both sides
    commit = git("rev-parse", "--verify", f"{given.base}^{{commit}}")
    print("| job | base | working tree | ratio | compressing: base | working tree | ratio | goal met |")
    print("|" + " --- |" + " ---: |" * 7)
    met = []
    with tempfile.TemporaryDirectory(prefix="base-jobs-") as temporary:
        folder = Path(temporary).resolve()
        with checked_out(commit, folder / "checkout") as root:
            places = {"base": (root, given.base_python), "head": (PROJECT, sys.executable)}
            for experiment in (one for one in JOBS if one.name in only):
                times = {side: Times() for side in places}
                for number in range(given.rounds):
                    for name in sorted(places, reverse=bool(number % 2)):
                        where = folder / name / str(number)
                        side = Side(name, *places[name], where, given.dtype, given.threads, measuring.CACHE)
                        run(side, experiment, times[name])
                text, is_met = row(experiment.name, times["base"], times["head"])
                print(text, flush=True)
                met.append(is_met)
    print(
        f"\nBase {commit[:12]}, {given.threads} threads, {given.dtype}, SmolLM2-135M, medians of {given.rounds} rounds."
    )
    sys.exit(0 if all(met) else "base_jobs: a job became more than 5 % slower")


if __name__ == "__main__":
    main()
