"""The training loop beside a plain transformers Trainer and a bare torch loop: equal model, batch, dtype and steps.

    .venv/bin/python benchmarks/training.py [--steps 6] [--rounds 2] [--sequences 4] [--tokens 128] [--rank 8]

All weights of SmolLM2 are trained; with --rank, adapters of all linear layers, which the others get from peft. Each
run has one validation pass less than the loop, whose evaluations are set to one, at its end; checkpoints are off for
the Trainer, and the loop writes one.
"""

import argparse
import statistics
import tempfile
from functools import partial
from typing import Any

import measuring
import torch
from torch.utils.data import DataLoader

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.data.training import TrainingSet
from slimsweep.techniques.training.finetune import Finetune
from slimsweep.techniques.training.loop import Examples

GOAL = 0.95
RATE = 1e-5


def windows(count: int, tokens: int, vocabulary: int) -> list[dict[str, torch.Tensor]]:
    chance = torch.Generator().manual_seed(0)
    return list(torch.randint(0, vocabulary, (count, tokens), generator=chance))


def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = torch.stack(rows)
    return {"input_ids": ids, "labels": ids}


def ours(model: Any, data: TrainingSet, asked: argparse.Namespace) -> None:
    """The loop, with one validation pass over one window and one checkpoint."""
    technique = Finetune(
        tokens=asked.steps * asked.sequences * asked.tokens,
        batch_sequences=asked.sequences,
        learning_rate=RATE,
        evaluations=1,
        rank=asked.rank,
        merge=asked.rank is None,
    )
    technique.apply(model, StageContext(data=data))


def with_adapters(module: Any, rank: int | None) -> Any:
    if rank is None:
        return module.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    return get_peft_model(module, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))


def plain_trainer(model: Any, data: TrainingSet, asked: argparse.Namespace) -> None:
    """transformers' Trainer with its own loss."""
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=asked.steps,
            per_device_train_batch_size=asked.sequences,
            learning_rate=RATE,
            bf16=model.dtype == torch.bfloat16,
            use_cpu=model.compute_device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        module = with_adapters(model.module.float(), asked.rank)
        Trainer(module, arguments, collate, Examples(data.training)).train()


def bare_loop(model: Any, data: TrainingSet, asked: argparse.Namespace) -> None:
    """A dozen lines of torch."""
    is_bf16 = model.dtype == torch.bfloat16
    module = with_adapters(model.module.float(), asked.rank).train()
    trained = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    loader = DataLoader(Examples(data.training), asked.sequences, shuffle=True, collate_fn=collate)
    device = model.compute_device.type
    for step, batch in enumerate(loader):
        if step == asked.steps:
            break
        with torch.autocast(device, torch.bfloat16, enabled=is_bf16):
            loss = module(**{name: one.to(model.compute_device) for name, one in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 6), ("rounds", 2), ("sequences", 4), ("tokens", 128), ("rank", None)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    made = measuring.experiment("model=smollm2_135m")
    vocabulary = made.model.config().vocab_size
    rows = windows((asked.steps + 1) * asked.sequences, asked.tokens, vocabulary)
    data = TrainingSet(rows[:-1], rows[-1:], collate, "random tokens")
    dense = made.model.load(getattr(torch, made.resolved_dtype), torch.device(made.resolved_device))
    ways = {"ours": ours, "transformers Trainer": plain_trainer, "bare loop": bare_loop}

    def run(name: str, steps: int = asked.steps) -> None:
        few = TrainingSet(data.training[: steps * asked.sequences], data.validation, collate, data.origin)
        ways[name](dense.copy(), few, argparse.Namespace(**vars(asked) | {"steps": steps}))

    for name in ways:
        run(name, steps=2)  # imports and compiled kernels
    seconds = measuring.alternate({name: partial(run, name) for name in ways}, asked.rounds, warm_ups=0)
    trained = asked.steps * asked.sequences * asked.tokens
    rates = {name: trained / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} tokens/s, {measuring.format_seconds(seconds[name])}")
    best = max(rate for name, rate in rates.items() if name != "ours")
    ratio = rates["ours"] / best
    kind = "all weights" if asked.rank is None else f"adapters of rank {asked.rank}"
    print(measuring.HEAD)
    print(
        f"| SmolLM2, {kind}, {asked.steps} steps of {asked.sequences} x {asked.tokens}, {made.resolved_dtype} | "
        f"{best:.0f} tokens/s | {rates['ours']:.0f} tokens/s | {ratio:.2f}x | {GOAL:.2f}x | "
        f"{'yes' if ratio >= GOAL else 'no'} |"
    )


if __name__ == "__main__":
    main()
