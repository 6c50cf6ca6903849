"""How time grows: with calibration tokens, with blocks, and `slim table` with records.

    .venv/bin/python benchmarks/growth.py [--records 10000]

A line is fitted through the first two sizes; the last column says by how much the largest size lies off that line.
"""

import argparse
import copy
import hashlib
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import measuring
import torch
from measuring import SMOLLM2_SHAPE

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.pipeline.run import run
from slimsweep.records.store import Store, SweepJob

TOKENS = (8, 16, 32)
"""Sequences of 512 tokens."""
BLOCKS = (4, 8, 16)


def seconds_of(made, repeats: int) -> float:
    """The best of some SparseGPT jobs."""
    batch = made.calibration.sample(made.model, made.corpora, 0)
    best = float("inf")
    for _ in range(repeats):
        model = measuring.loaded(made)
        started = time.perf_counter()
        made.stages[0].technique.apply(model, StageContext(batch))
        measuring.wait()
        best = min(best, time.perf_counter() - started)
    return best


def row(what: str, sizes: tuple[int, ...], seconds: list[float]) -> str:
    slope = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
    expected = seconds[1] + slope * (sizes[2] - sizes[1])
    told = ", ".join(f"{size}: {value:.2f} s" for size, value in zip(sizes, seconds, strict=True))
    return f"| {what} | {told} | {seconds[2] / expected - 1:+.0%} |"


def table_of_many(count: int) -> float:
    """Seconds of `slim table` on so many records, each a real one under another key."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        made, _ = run(measuring.experiment("model=random", "technique=magnitude", "evaluation=cost"))
        keys = []
        for number in range(count):
            record = copy.deepcopy(made)
            record["key"] = hashlib.sha256(str(number).encode()).hexdigest()
            store.write(record, [])
            keys.append(SweepJob(record["key"], f"magnitude {number}", []))
        store.open_sweep("many", keys)
        command = f"import os; os.environ['SLIMSWEEP_OUTPUTS'] = {folder!r}; from slimsweep.cli.slim import app; app()"
        words = [sys.executable, "-c", command, "table", "many"]
        return min(
            measuring.alternate({"table": partial(subprocess.run, words, capture_output=True, check=True)}, 3)["table"]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    words = ["model=random", "technique=sparsegpt", "evaluation=cost", "calibration.tokens=512"]
    by_tokens = [
        seconds_of(measuring.experiment(*words, SMOLLM2_SHAPE % 4, f"calibration.sequences={count}"), given.repeats)
        for count in TOKENS
    ]
    by_blocks = [
        seconds_of(measuring.experiment(*words, SMOLLM2_SHAPE % count, "calibration.sequences=8"), given.repeats)
        for count in BLOCKS
    ]
    print("| what | seconds | off a line |\n| --- | --- | ---: |")
    print(row("SparseGPT by sequences of 512 tokens, 4 blocks of SmolLM2's shape", TOKENS, by_tokens))
    print(row("SparseGPT by blocks of SmolLM2's shape, 8 x 512 tokens", BLOCKS, by_blocks), flush=True)
    print(f"| `slim table` on {given.records:,} records | {table_of_many(given.records):.2f} s (goal <= 5 s) | |")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
