"""The 27 unstructured jobs with dense inputs as one sweep, beside 27 jobs on their own; and what a warm job costs.

    .venv/bin/python benchmarks/sweep.py [--ratios 0.1,0.5,0.9]

In dense mode one collection of statistics serves all ratios. A job on its own is run for the ratios given and stands
for the others, which take the same time. Only compressing is measured; the second row is the default, where each job
is calibrated on its own compressed blocks.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import measuring
import torch

from slimsweep.compression import compress
from slimsweep.run import run

TECHNIQUES = ("magnitude", "sparsegpt", "wanda")
GOALS = {"dense": "<= 1/5", "compressed": "reported"}
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


def warm_overhead(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of a job of a warm process beyond compressing and measuring, and where they go."""
    words = [
        "technique=wanda",
        "cache=on",
        f"cache_dir={folder}",
        "evaluation.max_windows=2",
        "evaluation.task_limit=8",
    ]
    run(measuring.experiment(*words, "ratio=0.15"))
    started = time.perf_counter()
    made = measuring.experiment(*words, "ratio=0.25")
    composed = time.perf_counter() - started
    record, _ = run(made)
    total = time.perf_counter() - started
    parts = {"composing and checking": composed, "loading": record["load_seconds"]}
    rest = total - record["compress_spent_seconds"] - record["evaluate_seconds"]
    return rest, parts | {"describing": rest - sum(parts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", default="0.5", help="of the jobs on their own")
    parser.add_argument("--inputs", default="dense")
    given = parser.parse_args()
    ratios = [float(ratio) for ratio in given.ratios.split(",")]
    compress(job("sparsegpt", 0.5, "dense"))  # what a process does once: converted weights, compiled kernels
    print(f"{measuring.where(job('magnitude', 0.5, 'dense'))}, calibration of 16 x 512 tokens\n\n{measuring.HEAD}")
    comments = []
    for inputs in given.inputs.split(","):
        goal = GOALS[inputs]
        with tempfile.TemporaryDirectory() as folder:
            sweep, alone = whole_sweep(inputs, Path(folder)), on_their_own(inputs, ratios)
        together = sum(map(sum, sweep.values()))
        singles = sum(statistics.mean(seconds) * len(RATIOS) for seconds in alone.values())
        print(
            f"| compression of 27 jobs, inputs={inputs} | {singles:.1f} s on their own | {together:.1f} s | "
            f"1/{singles / together:.1f} | {goal} |"
        )
        for name in TECHNIQUES:
            first, rest = sweep[name][0], statistics.median(sweep[name][1:])
            comments.append(
                f"<!-- {inputs} {name}: {statistics.mean(alone[name]):.2f} s alone; in the sweep {first:.2f} s first, "
                f"then {rest:.2f} s -->"
            )
    with tempfile.TemporaryDirectory() as folder:
        rest, parts = warm_overhead(Path(folder))
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
    print(f"| a warm job beyond compressing and measuring ({told}) | | {rest:.2f} s | | <= 1 s |")
    print("\n".join(["", *comments]))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
