"""Tokens per second of the batched generation beside transformers' `generate`, on the same model and prompts.

    .venv/bin/python benchmarks/generation.py [--model smollm2_135m] [--prompts 16] [--new-tokens 32] [--repeats 3]

Two comparisons, each alternating in one process:

- one batch: prompts of equal length that both write at once. It shows what our settings and counts cost.
- many lengths: prompts of 8 to 128 tokens, which transformers pads in their order, `--batch` at once. Ours sorts them.

Both write exactly `--new-tokens` tokens after each prompt: no end token is allowed before.
"""

import argparse
import random
import statistics

import measuring
import torch

from slimsweep.models.batches import padding_id
from slimsweep.models.generation import Decoding, generate


def theirs(model, prompts: list[list[int]], batch: int, new_tokens: int) -> None:
    """transformers' own greedy generation, in the order of the prompts."""
    padding = padding_id(model.tokenizer)
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        width = max(map(len, part))
        ids = torch.tensor([[padding] * (width - len(one)) + one for one in part])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in part])
        model.module.generate(
            ids.to(model.compute_device),
            attention_mask=mask.to(model.compute_device),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=padding,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16, help="prompts that transformers writes at once")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    made = measuring.experiment(f"model={given.model}", f"dtype={given.dtype}")
    model = measuring.loaded(made)
    text = made.corpora.token_ids("movie_reviews", model.tokenizer).tolist()
    chance = random.Random(0)
    lengths = {"one batch": [64] * given.batch, "many lengths": [chance.randint(8, 128) for _ in range(given.prompts)]}
    decoding = Decoding(max_new_tokens=given.new_tokens, min_new_tokens=given.new_tokens)
    print(f"{measuring.where(made)}\n\n{measuring.HEAD}")
    notes = []
    for name, counts in lengths.items():
        prompts = [text[place * 128 : place * 128 + count] for place, count in enumerate(counts)]
        runs = {
            "theirs": lambda prompts=prompts: theirs(model, prompts, given.batch, given.new_tokens),
            "ours": lambda prompts=prompts: generate(model, prompts, decoding),
        }
        seconds = measuring.alternate(runs, given.repeats)
        what = f"{given.new_tokens} tokens after {len(prompts)} prompts, {name} (transformers' generate)"
        print(
            measuring.line(what, seconds["theirs"], seconds["ours"], 0.95 if name == "one batch" else None), flush=True
        )
        notes += [
            f"<!-- {name}, {who}: {len(prompts) * given.new_tokens / statistics.median(values):.0f} tokens/s -->"
            for who, values in seconds.items()
        ]
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
