"""The 27 unstructured jobs with dense inputs as one sweep, beside 27 jobs on their own; and what a warm job costs.

    .venv/bin/python benchmarks/sweep.py [--ratios 0.1,0.5,0.9] [--rounds 2] [--inputs dense,compressed]

In dense mode one collection of statistics serves all ratios; with compressed inputs, the default of a job, each is
calibrated on its own blocks. A job on its own is run for the ratios given and stands for the others, which take the
same time. The first row counts compressing alone; the second adds to both sides what `evaluation=quick` and the rest of
a job take, as one job shows.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import measuring
import torch

from slimsweep.pipeline.chain import compress
from slimsweep.pipeline.run import run

TECHNIQUES = ("magnitude", "sparsegpt", "wanda")
GOALS = {"dense": 5, "compressed": None}
"""How many times the single jobs should take as long."""
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def job(technique: str, ratio: float, inputs: str, *more: str):
    words = [f"technique={technique}", f"ratio={ratio}", "evaluation=cost", *more]
    if technique != "magnitude":
        words.append(f"technique.{technique}.inputs={inputs}")
    return measuring.experiment(*words)


def whole_sweep(inputs: str, folder: Path) -> dict[str, list[float]]:
    """Seconds that each job of a sweep with a fresh cache spends on its stages, by technique."""
    found: dict[str, list[float]] = {}
    for technique in TECHNIQUES:
        for ratio in RATIOS:
            made = job(technique, ratio, inputs, "cache=on", f"cache_dir={folder}")
            found.setdefault(technique, []).append(compress(made).spent_seconds)
    return found


def on_their_own(inputs: str, ratios: list[float]) -> dict[str, list[float]]:
    """The same of jobs without a cache, for some ratios."""
    return {name: [compress(job(name, ratio, inputs)).spent_seconds for ratio in ratios] for name in TECHNIQUES}


def warm_job(folder: Path) -> tuple[float, float, dict[str, float]]:
    """Seconds that a job of a warm process evaluates, those beyond compressing and evaluating, and where these go."""
    words = ["technique=wanda", "cache=on", f"cache_dir={folder}"]
    run(measuring.experiment(*words, "ratio=0.15", "evaluation.max_windows=1", "evaluation.task_limit=1"))
    started = time.perf_counter()
    made = measuring.experiment(*words, "ratio=0.25")
    composed = time.perf_counter() - started
    record, _ = run(made)
    total = time.perf_counter() - started
    parts = {"composing and checking": composed, "loading": record["load_seconds"]}
    rest = total - record["compress_spent_seconds"] - record["evaluate_seconds"]
    return record["evaluate_seconds"], rest, parts | {"describing": rest - sum(parts.values())}


def row(what: str, alone: list[float], together: list[float], goal: float | None) -> str:
    ratio = statistics.median(alone) / statistics.median(together)
    judged = "reported | |" if goal is None else f"<= 1/{goal} | {measuring.met(ratio >= goal)} |"
    seconds = [measuring.format_seconds(each) for each in (alone, together)]
    return f"| {what} | {' | '.join(seconds)} | 1/{ratio:.3g} | {judged}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", default="0.5", help="of the jobs on their own")
    parser.add_argument("--inputs", default="dense")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    ratios = [float(ratio) for ratio in given.ratios.split(",")]
    compress(job("sparsegpt", 0.5, "dense"))  # what a process does once: converted weights, compiled kernels
    with tempfile.TemporaryDirectory() as folder:
        evaluating, rest, parts = warm_job(Path(folder))
    jobs = len(TECHNIQUES) * len(RATIOS)
    others = jobs * (evaluating + rest)
    print(f"{measuring.where(job('magnitude', 0.5, 'dense'))}, calibration of 16 x 512 tokens\n\n{measuring.HEAD}")
    comments = []
    for inputs in given.inputs.split(","):
        sweeps, singles = [], []
        for _ in range(given.rounds):
            with tempfile.TemporaryDirectory() as folder:
                sweeps.append(whole_sweep(inputs, Path(folder)))
            singles.append(on_their_own(inputs, ratios))
        together = [sum(map(sum, sweep.values())) for sweep in sweeps]
        alone = [sum(statistics.mean(seconds) * len(RATIOS) for seconds in single.values()) for single in singles]
        print(row(f"compressing of 27 jobs, inputs={inputs}", alone, together, GOALS.get(inputs)))
        whole = statistics.median(together) + others
        shares = {"compressing": whole - others, "evaluating": jobs * evaluating, "the rest": jobs * rest}
        told = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in shares.items())
        wholes = ([seconds + others for seconds in side] for side in (alone, together))
        print(
            row(
                f"the same, with evaluating and the rest of one warm job added to both; of the sweep {told}",
                *wholes,
                None,
            )
        )
        for name in TECHNIQUES:
            first = statistics.median(sweep[name][0] for sweep in sweeps)
            later = statistics.median(seconds for sweep in sweeps for seconds in sweep[name][1:])
            own = statistics.median(statistics.mean(single[name]) for single in singles)
            comments.append(
                f"<!-- {inputs} {name}: {own:.2f} s alone; in the sweep {first:.2f} s first, then {later:.2f} s -->"
            )
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
    judged = f"<= 1 s | {measuring.met(rest <= 1)} |"
    print(f"| a warm job beyond compressing and measuring ({told}) | | {rest:.2f} s | | {judged}")
    print("\n".join(["", *comments]))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
