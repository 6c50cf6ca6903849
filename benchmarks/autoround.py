"""The block trainer of `autoround` beside the package auto-round, on equal blocks, tokens, steps and grids.

    .venv/bin/python benchmarks/autoround.py [--blocks 2] [--bits 3] [--steps 50] [--sequences 8] [--tokens 128]

Blocks of SmolLM2, asymmetric grids in groups of 64, batches of all sequences, both in fp32 and without compilation.
Each block of both sees the outputs of the quantized blocks before it. The table has the time of the whole quantization,
and the error of the last block's outputs: squared, as a share of that of round to nearest.
"""

import argparse
import logging
import statistics
import time
from typing import Any

import measuring
import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.models.language_model import LanguageModel
from slimsweep.models.surgery import remove_blocks
from slimsweep.techniques.quantization.autoround import AutoRound
from slimsweep.techniques.quantization.rtn import RTN

GROUP = 64


def ours(model: LanguageModel, ids: torch.Tensor, asked: argparse.Namespace) -> None:
    technique = AutoRound(bits=asked.bits, group_size=GROUP, steps=asked.steps, batch_sequences=len(ids))
    technique.apply(model, StageContext(batches={"input_ids": ids}))


def package(model: LanguageModel, ids: torch.Tensor, asked: argparse.Namespace) -> None:
    """The package's own tuning; it leaves rounded weights in the module."""
    import auto_round

    logging.getLogger("autoround").setLevel(logging.ERROR)
    rows = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in ids]
    tuned = auto_round.AutoRound(
        model=model.module,
        tokenizer=model.tokenizer,
        bits=asked.bits,
        group_size=GROUP,
        sym=False,
        iters=asked.steps,
        nsamples=len(ids),
        batch_size=len(ids),
        seqlen=ids.shape[1],
        dataset=rows,
        device_map="cpu",
        amp=False,
        enable_torch_compile=False,
    )
    tuned.quantize()


@torch.no_grad()
def outputs(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    return model.hidden_states({"input_ids": ids}).float()


def changed_layers(model: LanguageModel, dense: LanguageModel) -> int:
    before = dense.targets()
    return sum(not torch.equal(weight_2d(one), weight_2d(before[name])) for name, one in model.targets().items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = (("blocks", 2), ("bits", 3), ("steps", 50), ("sequences", 8), ("tokens", 128), ("rounds", 2))
    for name, default in sizes:
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    made = measuring.experiment("model=smollm2_135m", "dtype=float32")
    dense = measuring.loaded(made)
    remove_blocks(dense, list(range(asked.blocks, len(dense.blocks))))
    ids = torch.randint(0, 49152, (asked.sequences, asked.tokens), generator=torch.Generator().manual_seed(0))
    rounded = dense.copy()
    RTN(bits=asked.bits, group_size=GROUP).apply(rounded, StageContext())
    wanted = outputs(dense, ids)
    start = float((outputs(rounded, ids) - wanted).square().sum())
    ways: dict[str, Any] = {"auto-round": package, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    left: dict[str, float] = {}
    for _ in range(asked.rounds):
        for name, quantize in ways.items():
            model = dense.copy()
            began = time.perf_counter()
            quantize(model, ids, asked)
            seconds[name].append(time.perf_counter() - began)
            left[name] = float((outputs(model, ids) - wanted).square().sum()) / start
            print(f"{name}: {changed_layers(model, dense)} of {len(dense.targets())} layers changed", flush=True)
    print(f"\n{measuring.where(made)}; {asked.blocks} blocks, {asked.bits} bits, {asked.steps} steps\n")
    print("| | time | error of outputs, share of round to nearest |\n| --- | ---: | ---: |")
    for name in ways:
        print(f"| {name} | {measuring.format_seconds(seconds[name])} | {left[name]:.3f} |")
    ratio = statistics.median(seconds["auto-round"]) / statistics.median(seconds["ours"])
    print(f"\nThe package takes {ratio:.2f} times as long.")


if __name__ == "__main__":
    main()
