"""Prefill and decode of a model with half of its blocks' parameters removed, beside the dense one, in one process.

    .venv/bin/python benchmarks/structured_speed.py [--model smollm2_135m] [--tokens 512] [--repeats 7]

Prints, for three ways to remove half, what is left and by which factor the reduced model is faster. Which units go
does not matter for speed, so the last ones do.
"""

import argparse
import os
import statistics

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import slimsweep.app  # registers the resolvers of conf/config.yaml
from slimsweep.evaluation.speed import Speed
from slimsweep.models import anatomy, removal
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.paths import config_root

assert slimsweep.app


def block_parameters(model: LanguageModel) -> int:
    """Parameters of all blocks."""
    return sum(parameter_count(block) for block in model.blocks)


def half_of_each_block(model: LanguageModel) -> None:
    """Half of the key/value groups, rounded down, and as many neurons as make up for the rest."""
    for index, block in enumerate(model.blocks):
        goal = parameter_count(block) / 2
        heads = anatomy.heads(model, index)
        removal.remove(model, heads, range(len(heads) - len(heads) // 2, len(heads)))
        neurons = anatomy.neurons(model, index)
        layers = {slot.module for slot in neurons.slots}
        each = sum(layer.weight.numel() for layer in layers) / len(neurons)
        count = round((parameter_count(block) - goal) / each)
        removal.remove(model, neurons, range(len(neurons) - count, len(neurons)))


def half_of_the_blocks(model: LanguageModel) -> None:
    """Every second block."""
    removal.remove_blocks(model, range(1, len(model.blocks), 2))


def half_of_the_channels(model: LanguageModel) -> None:
    """Half of the residual width, in embeddings and head too."""
    channels = anatomy.channels(model)
    removal.remove(model, channels, range(len(channels) - len(channels) // 2, len(channels)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16 or float32")
    given = parser.parse_args()
    with initialize_config_dir(str(config_root() / "conf"), version_base="1.3"):
        config = compose("config", [f"model={given.model}", f"dtype={given.dtype}"])
    experiment = slimsweep.app.Experiment.of(config, [])
    source = instantiate(config.model, _convert_="all")
    device, dtype = torch.device(experiment.resolved_device), getattr(torch, experiment.resolved_dtype)
    speed = Speed(prompt_tokens=given.tokens, new_tokens=16, repeats=given.repeats)
    dense = source.load(dtype, device)
    print(f"{given.model}, {dtype}, {device}, {torch.get_num_threads()} threads, prompt of {given.tokens} tokens")
    print("| removed | blocks' parameters left | prefill, times as fast | decode, times as fast |")
    print("| --- | ---: | ---: | ---: |")
    for reduce in (half_of_each_block, half_of_the_blocks, half_of_the_channels):
        model = source.load(dtype, device)
        reduce(model)
        rounds = [speed.compare(dense, model).values for _ in range(3)]
        prefill, decode = (statistics.median(values[name] for values in rounds) for name in rounds[0])
        left = block_parameters(model) / block_parameters(dense)
        print(f"| {reduce.__name__.replace('_', ' ')} | {left:.1%} | {prefill:.2f} | {decode:.2f} |", flush=True)


if __name__ == "__main__":
    main()
