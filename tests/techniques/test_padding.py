"""Padding changes nothing, and a decoder is calibrated on the encoder as it is by then."""

import pytest
import torch
from contexts import text_context
from family_shapes import random_model
from small_stacks import SOURCES, STACKS, TARGETS, alone, encoder_decoder, pairs

from slimsweep.blockwise.activations import Activations
from slimsweep.blockwise.fisher import fisher_diagonal
from slimsweep.blockwise.gradients import loss
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.linear.base import weight_2d
from slimsweep.models import batch_sizes
from slimsweep.models.batches import split, text_batch
from slimsweep.techniques.pruning.sparsegpt import SparseGPT
from slimsweep.techniques.pruning.wanda import Wanda
from slimsweep.techniques.quantization.awq import AWQ
from slimsweep.techniques.quantization.gptq import GPTQ
from slimsweep.techniques.quantization.selective import Selective
from slimsweep.techniques.quantization.smoothquant import SmoothQuant
from slimsweep.techniques.quantization.squeezellm import SqueezeLLM
from slimsweep.techniques.structured.heads import Heads
from slimsweep.techniques.structured.layers import block_influence, loss_without
from slimsweep.techniques.structured.llm_pruner import LLMPruner
from slimsweep.techniques.structured.qap import Qap

CPU = torch.device("cpu")
SINGLE = ["llama", "opt", "bloom", "bert", "distilbert"]
INPUTS = ["compressed", "dense", "sequential"]
LENGTH, PADDED = 9, 14


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches of two sequences and one of one."""
    monkeypatch.setattr(batch_sizes, "BATCH_TOKENS", 2 * PADDED)


def text(sequences=3, tokens=PADDED):
    return torch.randint(1, 250, (sequences, tokens), generator=torch.Generator().manual_seed(0))


def padded_text(lengths):
    """Batch of text whose padding holds tokens like any other."""
    ids = text(len(lengths))
    return {"input_ids": ids, "attention_mask": (torch.arange(PADDED) < torch.tensor(lengths)[:, None]).long()}


def single(name, tmp_path):
    return random_model(name, str(tmp_path)).load(torch.float32, CPU)


def inputs_of_alone(model, sequences):
    """Inputs of every target by name, from forwards of single sequences without padding."""
    seen = {name: [] for name in model.targets()}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].flatten(0, -2)))
        for name, layer in model.targets().items()
    ]
    for batch in sequences:
        model.hidden_states(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(inputs) for name, inputs in seen.items()}


def layers_of(model, index):
    return {f"{model.block_names[index]}.{name}": layer for name, layer in model.linears(model.blocks[index]).items()}


def check_sums(model, batch, sequences):
    expected, walked = inputs_of_alone(model, sequences), Activations(model, batch)
    for index in range(len(model.blocks)):
        (*sums,) = walked.collect(index, layers_of(model, index), lambda inputs: inputs.T @ inputs, advance=True)
        for shared in sums:
            for name in shared.layers:
                torch.testing.assert_close(shared.summed, expected[name].T @ expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SINGLE)
@torch.no_grad()
def test_the_first_sequence_alone_gives_what_it_gives_in_a_padded_batch(name, tmp_path):
    model, batch = single(name, tmp_path), padded_text([5, PADDED, 9])
    alone_hidden = model.hidden_states(text_batch(batch["input_ids"][:1, :5]))
    torch.testing.assert_close(model.hidden_states(batch)[:1, :5], alone_hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SINGLE)
@torch.no_grad()
def test_padding_is_in_no_statistic(name, tmp_path):
    lengths, model = [5, PADDED, 9], single(name, tmp_path)
    batch = padded_text(lengths)
    sequences = [text_batch(ids[None, :length]) for ids, length in zip(batch["input_ids"], lengths, strict=True)]
    check_sums(model, batch, sequences)


@pytest.mark.parametrize("name", STACKS)
@torch.no_grad()
def test_statistics_of_both_stacks_are_those_of_every_pair_alone(name, tmp_path):
    batch = pairs()
    check_sums(encoder_decoder(name, tmp_path), batch, [alone(batch, place) for place in range(3)])


@pytest.mark.parametrize("name", STACKS)
@torch.no_grad()
def test_a_pair_alone_gives_the_logits_it_gives_in_a_padded_batch(name, tmp_path):
    model, batch = encoder_decoder(name, tmp_path), pairs()
    logits = model.logits(model.hidden_states(batch))
    for place, length in enumerate(TARGETS):
        own = alone(batch, place)
        torch.testing.assert_close(
            logits[place : place + 1, :length], model.logits(model.hidden_states(own)), rtol=1e-4, atol=1e-5
        )
        expected = model.module(input_ids=own["input_ids"], decoder_input_ids=own["decoder_input_ids"]).logits
        torch.testing.assert_close(logits[place : place + 1, :length], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STACKS)
def test_the_loss_is_the_mean_over_all_unpadded_targets(name, tmp_path):
    model, batch = encoder_decoder(name, tmp_path), pairs()
    with torch.no_grad():
        own = [float(loss(model, alone(batch, place))) * length for place, length in enumerate(TARGETS)]
        assert float(loss(model, batch)) == pytest.approx(sum(own) / sum(TARGETS), rel=1e-5)
    names = list(model.targets())[:3]
    squares = dict.fromkeys(names, 0.0)
    for place, length in enumerate(TARGETS):
        for parameter in (weights := [model.module.get_submodule(name).weight for name in names]):
            parameter.requires_grad_(True)
        (length * loss(model, alone(batch, place))).backward()
        for name, weight in zip(names, weights, strict=True):
            squares[name] = squares[name] + weight.grad.square()
            weight.grad = None
            weight.requires_grad_(False)
    for name, information in fisher_diagonal(model, names, batch).items():
        torch.testing.assert_close(information, squares[name] / sum(TARGETS), rtol=1e-3, atol=1e-9)


STAGES = {
    **{f"wanda-{inputs}": (Wanda, {"ratio": 0.5, "inputs": inputs}) for inputs in INPUTS},
    **{f"sparsegpt-{inputs}": (SparseGPT, {"ratio": 0.5, "inputs": inputs}) for inputs in INPUTS},
    "gptq": (GPTQ, {"bits": 4, "group_size": None}),
    "awq": (AWQ, {"bits": 4, "group_size": None, "steps": 4}),
    "smoothquant": (SmoothQuant, {}),
    "squeezellm": (SqueezeLLM, {"bits": 3}),
    "selective": (Selective, {"average_bits": 4, "choices": [3, 8], "group_size": None, "measure": "loss"}),
    "qap": (Qap, {"ratio": 0.3, "parts": ["heads", "neurons"], "repair": True}),
    "heads-taylor": (Heads, {"ratio": 0.3}),
    "heads-confidence": (Heads, {"ratio": 0.3, "importance": "confidence"}),
    "llm_pruner": (LLMPruner, {"ratio": 0.5, "blocks": [0, 1]}),
}


def dense_weights(model):
    return {name: weight_2d(layer).float() for name, layer in model.targets().items()}


def check_equal_weights(found, expected):
    for (name, weight), (_, other) in zip(found.items(), expected.items(), strict=True):
        assert weight.shape == other.shape, name
        assert torch.equal(weight == 0, other == 0), name
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("stage", STAGES)
def test_weights_compressed_on_a_padded_batch_are_those_of_the_sequences_without_padding(stage, tmp_path):
    made, knobs = STAGES[stage]
    model, other = single("llama", tmp_path), single("llama", tmp_path)
    made(**knobs).apply(model, StageContext(padded_text([LENGTH] * 3)))
    made(**knobs).apply(other, text_context(text()[:, :LENGTH]))
    check_equal_weights(dense_weights(model), dense_weights(other))


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "selective"])  # which is slow
def test_weights_of_an_encoder_decoder_are_those_of_pairs_without_padding(stage, name, tmp_path):
    made, knobs = STAGES[stage]
    model, other = encoder_decoder(name, tmp_path), encoder_decoder(name, tmp_path)
    batch = pairs([6] * 3, [4] * 3)
    wider = {}
    for key, values in batch.items():
        filling = {"labels": -100}.get(key, 0 if key.endswith("mask") else 7)
        wider[key] = torch.nn.functional.pad(values, (0, 5), value=filling)
    made(**knobs).apply(model, StageContext(wider))
    made(**knobs).apply(other, StageContext({key: value for key, value in batch.items() if not key.endswith("mask")}))
    check_equal_weights(dense_weights(model), dense_weights(other))


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_block_scores_leave_padding_out(name, tmp_path):
    model, batch = encoder_decoder(name, tmp_path), pairs()
    expected = torch.zeros(2, len(model.blocks), dtype=torch.float64)
    lengths = [SOURCES] * 2 + [TARGETS] * 3
    for place in range(3):
        own = alone(batch, place)
        shares = torch.tensor([stack[place] / sum(stack) for stack in lengths])
        expected[0] += block_influence(model, own) * shares
        expected[1] += loss_without(model, own) * TARGETS[place] / sum(TARGETS)
    torch.testing.assert_close(block_influence(model, batch).double(), expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss_without(model, batch).double(), expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("inputs", INPUTS)
@torch.no_grad()
def test_a_decoder_is_calibrated_on_the_dense_or_the_compressed_encoder(name, inputs, tmp_path):
    """Gram matrix of the first decoder block's keys: the encoder's output, before or after the encoder's stage."""
    batch, seen = pairs(), []

    class Seen(Wanda):
        def statistic(self, values):
            seen.append(values.square().sum(dim=0))
            return super().statistic(values)

    model, dense = encoder_decoder(name, tmp_path), encoder_decoder(name, tmp_path)
    key = next(layer for layer in dense.targets() if "EncDecAttention.k" in layer or "encoder_attn.k_proj" in layer)
    Seen(ratio=0.6, inputs=inputs, include=["*encoder.*", f"*{key}"]).apply(model, StageContext(batch))
    source = dense if inputs == "dense" else model
    keys = inputs_of_alone(source, [alone(batch, place) for place in range(3)])[key]
    parts = len(list(split(batch, 2 * PADDED // max(SOURCES))))
    found = torch.stack(seen[-parts:]).sum(dim=0)  # the keys come last
    torch.testing.assert_close(found, keys.square().sum(dim=0), rtol=1e-4, atol=1e-5)
