"""Prefill and decode of smaller dense shapes, and prefill of 2:4 zeros in sparse kernels, beside the dense model.

    .venv/bin/python benchmarks/structured_speed.py [--model smollm2_135m] [--tokens 512] [--repeats 7]

Which units go does not matter for speed, so the last ones do. 2:4 kernels need a GPU; they are measured on a model of
Llama-7B's widths too, since small layers gain nothing.
"""

import argparse
import statistics

import measuring
import torch

from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.semi_structured import FIELD, SemiStructured
from slimsweep.evaluation.speed import Speed
from slimsweep.models import anatomy, surgery
from slimsweep.models.language_model import LanguageModel, parameter_count
from slimsweep.techniques.pruning.magnitude import Magnitude

WIDE = "{model_type: llama, hidden_size: 4096, intermediate_size: 11008, num_attention_heads: 32, "
WIDE += "num_key_value_heads: 32, num_hidden_layers: 4, vocab_size: 258, tie_word_embeddings: true}"


def block_parameters(model: LanguageModel) -> int:
    """Parameters of all blocks."""
    return sum(parameter_count(block) for block in model.blocks)


def half_of_the_heads_and_neurons(model: LanguageModel) -> None:
    """Half of the heads, rounded down, and half of the neurons of every block."""
    for index in range(len(model.blocks)):
        for units in (anatomy.heads(model, index), anatomy.neurons(model, index)):
            surgery.remove(model, units, range(len(units) - len(units) // 2, len(units)))


def half_of_the_blocks(model: LanguageModel) -> None:
    """Every second block."""
    surgery.remove_blocks(model, range(1, len(model.blocks), 2))


def half_of_the_channels(model: LanguageModel) -> None:
    """Half of the residual width, in embeddings and head too."""
    channels = anatomy.channels(model)
    surgery.remove(model, channels, range(len(channels) - len(channels) // 2, len(channels)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16 or float32")
    given = parser.parse_args()
    made = measuring.experiment(f"model={given.model}", f"dtype={given.dtype}")
    speed = Speed(prompt_tokens=given.tokens, new_tokens=16, repeats=given.repeats)
    dense = measuring.loaded(made)
    print(f"{measuring.where(made)}, prompt of {given.tokens} tokens\n")
    print("| removed | blocks' parameters left | prefill, times as fast | decode, times as fast |")
    print("| --- | ---: | ---: | ---: |")
    for reduce in (half_of_the_heads_and_neurons, half_of_the_blocks, half_of_the_channels):
        model = measuring.loaded(made)
        reduce(model)
        rounds = [speed.compare(dense, model).values for _ in range(3)]
        prefill, decode = (statistics.median(values[name] for values in rounds) for name in rounds[0])
        left = block_parameters(model) / block_parameters(dense)
        print(f"| {reduce.__name__.replace('_', ' ')} | {left:.1%} | {prefill:.2f} | {decode:.2f} |", flush=True)
    if not SemiStructured.has_kernels(dense.compute_device):
        print(f"\n2:4 zeros: {SemiStructured(repeats=1).measure(dense, None).reasons[FIELD]}.")
        return
    print("\n| 2:4 zeros of | prompt tokens | prefill in sparse kernels, times as fast |\n| --- | ---: | ---: |")
    wide = measuring.experiment("model=random", f"model.shape={WIDE}", f"dtype={given.dtype}")
    for name, source, prompts in (
        (given.model, made, (512, 8192)),
        ("4 blocks of Llama-7B's widths", wide, (512, 4096)),
    ):
        model = measuring.loaded(source)
        Magnitude(ratio=0.5, pattern="2:4").apply(model, StageContext())
        for tokens in prompts:
            found = SemiStructured(prompt_tokens=tokens, repeats=given.repeats).measure(model, None)
            told = found.reasons[FIELD] if found.values[FIELD] is None else f"{found.values[FIELD]:.2f}"
            print(f"| {name} | {tokens} | {told} |", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
