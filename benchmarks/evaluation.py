"""Tokens per second of a perplexity measurement beside a bare forward of the model over the same windows.

    .venv/bin/python benchmarks/evaluation.py [--dtypes bfloat16,float32] [--repeats 3]

The bare forward is the model's own, logits and all, at the batch size and dtype it is fastest in. Both dtypes
are tried, but for CPUs where `dtype=auto` is float32, which take far longer in the other. A GPU gets 64 windows in
larger batches.
"""

import argparse
import statistics

import measuring
import torch

from slimsweep.evaluation.perplexity import cut, mean_nll

BATCHES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
"""Tokens of one forward."""
WINDOWS = {"cpu": 4, "cuda": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--dtypes", help="by default bfloat16,float32, or float32 alone where dtype=auto is that")
    parser.add_argument("--windows", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count, batches = given.windows or WINDOWS[device], BATCHES[device]
    fast = measuring.experiment(f"model={given.model}", "dtype=auto").resolved_dtype
    dtypes = given.dtypes or ("bfloat16,float32" if fast == "bfloat16" else fast)
    best: dict[str, list[float]] = {}
    for dtype in dtypes.split(","):
        made = measuring.experiment(f"model={given.model}", f"dtype={dtype}")
        model = measuring.loaded(made)
        windows = cut(made.corpora.token_ids("movie_reviews", model.tokenizer), 512)[:count]

        def bare(tokens: int, model=model, windows=windows) -> None:
            for batch in windows.split(max(1, tokens // 512)):
                model.module(input_ids=batch.to(device), use_cache=False)

        runs = {f"bare {dtype} {tokens}": lambda tokens=tokens: bare(tokens) for tokens in batches}
        runs |= {
            f"ours {dtype} {tokens}": lambda tokens=tokens, model=model, windows=windows: mean_nll(
                model, windows, tokens
            )
            for tokens in batches
        }
        best |= measuring.alternate(runs, given.repeats)
    fastest = {
        kind: min((name for name in best if name.startswith(kind)), key=lambda name: statistics.median(best[name]))
        for kind in ("bare", "ours")
    }
    print(measuring.HEAD)
    words = {kind: name.split(" ", 1)[1].replace(" ", " in batches of ") for kind, name in fastest.items()}
    what = f"perplexity of {count} windows of 512 tokens ({words['ours']}; bare: {words['bare']})"
    print(measuring.line(what, best[fastest["bare"]], best[fastest["ours"]], 0.95))
    print()
    for name, seconds in best.items():
        print(f"<!-- {name}: {count * 512 / statistics.median(seconds):.0f} tokens/s -->")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
