"""A random Llama of 6,738,415,616 parameters pruned and evaluated block by block under 6 GiB of resident memory.

    .venv/bin/python benchmarks/memory.py [--folder FOLDER] [--technique wanda] [--dtype auto]

Writes the model (13.5 GB of bf16 safetensors, in shards) into FOLDER, then prunes it to 0.5 with 4 x 512 tokens and
measures the perplexity of one window, in a process of its own, whose peak is what the system counted, mapped files
included. Needs 28 GB of disk, 41 where `dtype=auto` is float32.

What is resident does not grow with blocks, but for packed weights: `--technique sparsegpt --blocks 2` shows in minutes
what whole runs of techniques that take longer hold.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

GOAL_BYTES = 6 * 2**30
SHAPE = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
}


def write_model(folder: Path, blocks: int) -> None:
    """Config, a tokenizer of one id per byte, and a shard of weights for each block, drawn with seed 0."""
    from safetensors.torch import save_file
    from transformers import AutoConfig

    from slimsweep.models.placement import loading
    from slimsweep.models.sources.byte_tokenizer import byte_tokenizer
    from slimsweep.models.task import TASKS

    folder.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.for_model(**SHAPE | {"num_hidden_layers": blocks})
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    module = loading.build(config, TASKS["causal_lm"], torch.bfloat16, torch.device("meta"), False)
    chance, shards, total = torch.Generator().manual_seed(0), {}, 0
    for name, tensor in module.state_dict().items():
        words = name.split(".")
        shards.setdefault(f"block-{words[2]}" if words[1] == "layers" else "outside", []).append((name, tensor.shape))
        total += tensor.numel()
    files = {}
    for shard, members in shards.items():
        tensors = {}
        for name, shape in members:
            drawn = torch.empty(shape, dtype=torch.bfloat16)
            tensors[name] = drawn.fill_(1) if len(shape) == 1 else drawn.normal_(0, 0.02, generator=chance)
            files[name] = f"{shard}.safetensors"
        save_file(tensors, folder / f"{shard}.safetensors", {"format": "pt"})
    index = {"metadata": {"total_size": 2 * total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def prune(folder: Path, given: argparse.Namespace) -> None:
    """What the process of its own does; prints JSON of its seconds by block."""
    from measuring import experiment

    from slimsweep.blockwise.stage_context import StageContext
    from slimsweep.evaluation.perplexity import mean_nll
    from slimsweep.models.language_model import LanguageModel
    from slimsweep.pipeline.chain import load

    made = experiment(
        "model=local", f"model.path={folder}", f"technique={given.technique}", "ratio=0.5",
        f"dtype={given.dtype}", "device=cpu", "calibration=quick", "calibration.sequences=4",
        f"calibration.tokens={given.tokens}", "evaluation=cost", f"memory_budget={given.budget}",
        f"cache_dir={folder.parent / 'cache'}",
    )  # fmt: skip
    started = time.perf_counter()
    model = load(made).model
    loaded = time.perf_counter() - started
    resident, blocks = LanguageModel.resident, []

    def timed(self, block):
        blocks.append(time.perf_counter())
        return resident(self, block)

    LanguageModel.resident = timed
    batch = made.calibration.sample(made.model, made.corpora, 0)
    started = time.perf_counter()
    report = made.stages[0].technique.apply(model, StageContext(batch))
    seconds = time.perf_counter() - started
    zeros = sum(layer.zeros for layer in report.layers) / sum(layer.weights for layer in report.layers)
    ends = [*blocks[1:], started + seconds]
    by_block = [end - start for start, end in zip(blocks, ends, strict=True)]
    found = {"dtype": made.resolved_dtype, "load": loaded, "seconds": seconds, "sparsity": zeros, "blocks": by_block}
    found["parameters"] = model.original_parameters
    LanguageModel.resident = resident
    started = time.perf_counter()
    found["nll"] = mean_nll(model, batch["input_ids"][:1], given.tokens)
    print(json.dumps(found | {"evaluating": time.perf_counter() - started}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", help="where the model is, or is to be written; by default a temporary one, or BENCH_FOLDER"
    )
    parser.add_argument("--technique", default="wanda")
    parser.add_argument("--dtype", default="auto", help="that the model is pruned in: auto, bfloat16 or float32")
    parser.add_argument("--tokens", type=int, default=512, help="of each of the 4 sequences")
    parser.add_argument("--blocks", type=int, default=SHAPE["num_hidden_layers"], help="at least 2")
    parser.add_argument("--budget", default="6GiB", help="that the job is given; the goal stays")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.blocks < 2:
        parser.error("--blocks: at least 2, since the first also warms up")
    if given.child:
        prune(Path(given.folder), given)
        return
    with tempfile.TemporaryDirectory(prefix="slimsweep-memory-") as temporary:
        folder = Path(given.folder or os.environ.get("BENCH_FOLDER") or temporary) / f"llama-{given.blocks}"
        if not (folder / "model.safetensors.index.json").is_file():
            write_model(folder, given.blocks)
        words = ["technique", "dtype", "tokens", "blocks", "budget"]
        named = [f"--{word}={getattr(given, word)}" for word in words]
        command = [sys.executable, __file__, "--child", f"--folder={folder}", *named]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    found = json.loads(ran.stdout.splitlines()[-1])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    blocks = found["blocks"]
    quarter = max(1, len(blocks) // 4)
    first, last = (sum(part) / len(part) for part in (blocks[1 : 1 + quarter], blocks[-quarter:]))
    done = f"{given.technique} in {found['dtype']} at {found['sparsity']:.4f}"
    print(f"{done} of a Llama of {found['parameters']:,} parameters, 4 x {given.tokens} tokens\n")
    print("| what | found | goal |\n| --- | ---: | ---: |")
    print(f"| peak resident memory | {peak / 2**30:.2f} GiB | < 6 GiB |")
    if len(blocks) > 3:
        print(f"| seconds a block, last quarter over first | {last:.2f} / {first:.2f} = {last / first:.2f} | 1 |")
    print(f"| pruning, and reading the model into its file | {found['seconds']:.0f} s, {found['load']:.0f} s | |")
    print(f"| measuring the perplexity of one window of {given.tokens} tokens | {found['evaluating']:.0f} s | |")
    assert found["nll"] > 0, found["nll"]
    assert peak < GOAL_BYTES, "above 6 GiB"


if __name__ == "__main__":
    main()
