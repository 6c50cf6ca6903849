"""Gain of numerics/parallel.py in whole jobs: layers side by side, and one by one.

    .venv/bin/python benchmarks/threads.py [--repeats 2] [--jobs "sparsegpt;gptq;squeezellm"]

A job is compressing SmolLM2 with 8 x 512 tokens of calibration text, then 4 windows of perplexity; loading is not
counted. Side by side is worth its code where a whole job gains 5 % by it.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import measuring
import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.numerics import parallel

JOBS = {
    "sparsegpt": ("technique=sparsegpt", "ratio=0.5"),
    "gptq": ("technique=gptq",),
    "awq": ("technique=awq",),
    "squeezellm": ("technique=squeezellm",),
}
TEXT = ("model=smollm2_135m", "calibration.sequences=8", "calibration.tokens=512")
GOAL = 1.05
PARALLEL_MAP = parallel.parallel_map


def one_by_one(work: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> list[Any]:
    """The same results without any thread beside torch's own."""
    return [work(item) for item in items]


def put(mapping: Any) -> None:
    """Replace `parallel_map` in every module that imported it."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("slimsweep.") and hasattr(module, "parallel_map"):
            module.parallel_map = mapping


def job(words: tuple[str, ...], mapping: Any) -> None:
    """Compress and measure once, with `mapping` in the place of `parallel_map`."""
    made = measuring.experiment(*TEXT, *words)
    batch = made.calibration.sample(made.model, made.corpora, 0)
    model = MODELS.pop()
    put(mapping)
    try:
        made.stages[0].technique.apply(model, StageContext(batch))
        Perplexity(corpora="movie_reviews", context_tokens=512, max_windows=4).measure(model, made.corpora)
    finally:
        put(PARALLEL_MAP)


MODELS: list[Any] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=";".join(JOBS), help="separated by semicolons")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    runs = {"side by side": PARALLEL_MAP, "one by one": one_by_one}
    dense = measuring.loaded(measuring.experiment(*TEXT))
    print(measuring.HEAD)
    for name in given.jobs.split(";"):
        MODELS.extend(dense.copy() for _ in range(len(runs) * (given.repeats + 1)))
        calls = {kind: partial(job, JOBS[name], mapping) for kind, mapping in runs.items()}
        seconds = measuring.alternate(calls, given.repeats)
        print(measuring.line(name, seconds["one by one"], seconds["side by side"], GOAL), flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
