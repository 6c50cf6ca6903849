"""Whole compression jobs beside llm-compressor's: same model, same sequences, same evaluator, alternating.

    .venv/bin/python benchmarks/jobs.py [--dtypes bfloat16,float32] [--repeats 3] [--methods sparsegpt,wanda,gptq]

Each engine runs in every dtype given and counts in the one it is fastest in.
"""

import argparse
import statistics
import time

import torch
from measuring import experiment, line, loaded, told, where

from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.techniques.gptq import GPTQ
from slimsweep.techniques.llmcompressor import LLMCompressor
from slimsweep.techniques.llmcompressor_quantizer import LLMCompressorQuantizer
from slimsweep.techniques.sparsegpt import SparseGPT
from slimsweep.techniques.wanda import Wanda

METHODS = {
    "sparsegpt": (SparseGPT(ratio=0.5), LLMCompressor(ratio=0.5, method="sparsegpt"), ">= 4x"),
    "wanda": (Wanda(ratio=0.5), LLMCompressor(ratio=0.5, method="wanda"), ">= 2x"),
    "gptq": (GPTQ(bits=4, group_size=64), LLMCompressorQuantizer(method="gptq", bits=4, group_size=64), ">= 3x"),
}
CORPUS = "movie_reviews"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    perplexity = Perplexity(corpora=CORPUS, context_tokens=512, max_windows=16, batch_tokens=1024)
    print("| what | llm-compressor | ours | ratio | goal | perplexity, theirs and ours |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for method in given.methods.split(","):
        ours, theirs, goal = METHODS[method]
        seconds: dict[tuple[str, str], list[float]] = {}
        found: dict[tuple[str, str], float] = {}
        for dtype in given.dtypes.split(","):
            text = [f"calibration.sequences={given.sequences}", f"calibration.tokens={given.tokens}"]
            made = experiment(f"model={given.model}", f"dtype={dtype}", *text)
            token_ids = made.calibration.sample(made.model.tokenizer(), made.corpora, 0)
            for _ in range(given.repeats):
                for engine, technique in (("theirs", theirs), ("ours", ours)):
                    model = loaded(made)
                    started = time.perf_counter()
                    technique.apply(model, token_ids, 0)
                    seconds.setdefault((engine, dtype), []).append(time.perf_counter() - started)
                    if (engine, dtype) not in found:
                        found[engine, dtype] = perplexity.measure(model, made.corpora).values[f"perplexity_{CORPUS}"]
        best = {
            engine: min((key for key in seconds if key[0] == engine), key=lambda key: statistics.median(seconds[key]))
            for engine in ("theirs", "ours")
        }
        what = f"{method}, {where(made).split(',')[0]}, {best['theirs'][1]} and {best['ours'][1]}"
        row = line(what, seconds[best["theirs"]], seconds[best["ours"]], goal)
        print(f"{row} {found[best['theirs']]:.2f}, {found[best['ours']]:.2f} |")
        for key in sorted(seconds):
            print(f"<!-- {method} {key[0]} {key[1]}: {told(seconds[key])}, perplexity {found[key]:.3f} -->", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
