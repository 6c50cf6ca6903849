import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import meta_model
from contexts import text_context
from family_shapes import DECODERS
from planning import apply_or_plan
from reductions import loud
from removed import first_blocks, ids, logits, text_ids
from restatements import perplexity

from slimsweep.models.batches import text_batch
from slimsweep.models.language_model import parameter_count
from slimsweep.models.sources.random import RandomModel
from slimsweep.models.surgery import remove_blocks
from slimsweep.techniques.base import Requirements
from slimsweep.techniques.structured.layers import IMPORTANCES, Layers, block_influence, loss_without

CPU = torch.device("cpu")
SEVERAL = ["llama", "gpt2", "gpt_neox", "opt", "gemma3_text", "bert", "distilbert"]


@pytest.fixture
def deep(tiny_source):
    """The tiny model with six blocks, each of other weights."""
    source = replace(tiny_source, shape=tiny_source.shape | {"num_hidden_layers": 6})
    model = source.load(torch.float32, CPU)
    for index, block in enumerate(model.blocks):
        for part in block.parameters():
            part *= 1 + (5 * index) % 6
    return model


def influences(model, token_ids) -> list[float]:
    """1 - cosine, token by token, from hidden states of plain forwards; the last one is before the final norm."""
    leaving = []
    handle = model.blocks[-1].register_forward_hook(
        lambda _block, _args, output: leaving.append(output[0] if isinstance(output, tuple) else output)
    )
    found = [[] for _ in model.blocks]
    for row in token_ids:
        leaving.clear()
        with torch.no_grad():
            states = list(model.module(input_ids=row[None], output_hidden_states=True).hidden_states)
        states[-1] = leaving[0]
        assert len(states) == len(model.blocks) + 1
        for index, (one, two) in enumerate(pairwise(states)):
            for before, after in zip(one[0].double(), two[0].double(), strict=True):
                found[index].append(1 - float(before @ after / before.norm() / after.norm()))
    handle.remove()
    return [sum(values) / len(values) for values in found]


def text_loss(model, token_ids) -> float:
    """Mean NLL of the next tokens."""
    found = logits(model, token_ids).log_softmax(dim=-1)
    return -float(found[:, :-1].gather(2, token_ids[:, 1:, None]).mean())


@pytest.mark.parametrize("name", SEVERAL)
def test_block_influence_equals_the_cosines_of_hidden_states(name, tmp_path):
    model = loud(name, str(tmp_path))
    expected = influences(model, ids())
    assert block_influence(model, text_batch(ids())).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert len(expected) == len(set(expected)) == 2


def test_the_final_norm_is_no_part_of_the_last_block(tmp_path):
    model = loud("llama", str(tmp_path))
    before = block_influence(model, text_batch(ids()))
    model.module.model.norm.weight.copy_(torch.linspace(-3, 3, 32))
    assert torch.equal(block_influence(model, text_batch(ids())), before)


def test_a_block_that_does_nothing_has_no_influence_and_goes_first(deep):
    deep.blocks[3].self_attn.o_proj.weight.zero_()
    deep.blocks[3].mlp.down_proj.weight.zero_()
    before = logits(deep, ids())
    assert float(block_influence(deep, text_batch(ids()))[3]) == pytest.approx(0, abs=1e-6)
    assert float(loss_without(deep, text_batch(ids()))[3]) == pytest.approx(text_loss(deep, ids()), rel=1e-6)
    (entry,) = Layers(ratio=0.2).apply(deep, text_context(ids())).notes["details"]
    assert entry["blocks"] == [3] and len(deep.blocks) == 5
    assert torch.allclose(logits(deep, ids()), before, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_the_loss_without_a_block_is_that_of_the_model_that_lost_it(name, tmp_path):
    model = loud(name, str(tmp_path))
    expected = []
    for index in range(2):
        shorter = model.copy()
        remove_blocks(shorter, [index])
        expected.append(text_loss(shorter, ids()))
    assert loss_without(model, text_batch(ids())).tolist() == pytest.approx(expected, rel=1e-4)
    assert expected[0] != pytest.approx(expected[1], rel=1e-4)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_the_model_is_left_as_it_was_where_nothing_goes(importance, deep):
    before, hooks = logits(deep, ids()), [dict(block._forward_hooks) for block in deep.blocks]
    Layers(ratio=0.1, importance=importance).apply(deep, text_context(ids()))
    assert torch.equal(logits(deep, ids()), before)
    assert [dict(block._forward_hooks) for block in deep.blocks] == hooks


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize(("ratio", "count"), [(0.16, 0), (0.17, 1), (0.34, 2), (0.5, 3), (0.6, 3), (0.67, 4)])
def test_the_blocks_of_lowest_score_go(ratio, count, importance, deep):
    measure = {"block_influence": block_influence, "perplexity": loss_without}[importance]
    scores = measure(deep, text_batch(ids())).tolist()
    dense = deep.copy()
    (entry,) = Layers(ratio=ratio, importance=importance).apply(deep, text_context(ids())).notes["details"]
    lowest = sorted(sorted(range(1, 5), key=lambda index: scores[index])[:count])
    assert entry == {"kind": "blocks", "removed": count, "blocks": lowest, "scores": pytest.approx(scores, rel=1e-6)}
    remove_blocks(dense, lowest)
    assert len(deep.blocks) == 6 - count and torch.equal(logits(deep, ids()), logits(dense, ids()))


@pytest.mark.parametrize(
    ("fields", "free"),
    [
        ({}, range(1, 5)),
        ({"protect_first": 0, "protect_last": 0}, range(6)),
        ({"protect_first": 3}, range(3, 5)),
        ({"protect_last": 4}, range(1, 2)),
        ({"protect_first": 2, "blocks": [0, 3]}, range(2, 4)),
        ({"blocks": [3, 5]}, range(3, 5)),
    ],
)
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_protected_blocks_stay(importance, fields, free, deep):
    for index in set(range(6)) - set(free):  # those that stay would be the first to go
        deep.blocks[index].self_attn.o_proj.weight.zero_()
        deep.blocks[index].mlp.down_proj.weight.zero_()
    kept = [block for index, block in enumerate(deep.blocks) if index not in free]
    technique = Layers(ratio=min(len(free), 5) / 6 + 0.001, importance=importance, **fields)
    assert technique.block_range(deep) == list(free) and technique.faults(deep) == []
    (entry,) = technique.apply(deep, text_context(ids())).notes["details"]
    assert set(entry["blocks"]) <= set(free)
    assert all(block in deep.blocks for block in kept)
    assert len(deep.blocks) == 6 - min(len(free), 5)


@pytest.mark.parametrize(
    ("fields", "free"),
    [({}, 4), ({"protect_first": 3, "protect_last": 3}, 0), ({"protect_first": 9}, 0), ({"blocks": [2, 3]}, 2)],
)
def test_more_blocks_than_are_free_is_a_fault(fields, free, deep):
    (fault,) = Layers(ratio=0.9, **fields).faults(deep)
    assert fault.startswith(f"ratio=0.9 would remove 5 of 6 blocks, and only {free} are not protected: ")
    most = Layers(ratio=float(fault.split("give at most ")[1]), **fields)
    assert most.faults(deep) == []
    assert most.apply(deep, text_context(ids())).notes["details"][0]["removed"] == free


@pytest.mark.parametrize("name", ["llama_2_7b", "smollm2_135m", "distilbert", "gpt2"])
def test_the_ratio_a_fault_allows_removes_all_that_are_free(name):
    model = meta_model(name)
    (fault,) = Layers(ratio=0.9999).faults(model)
    technique = Layers(ratio=float(fault.split("give at most ")[1]))
    assert technique.faults(model) == []
    technique.plan(model)
    assert len(model.blocks) == 2


def test_a_classifier_has_no_perplexity(tmp_path):
    model = loud("bert", str(tmp_path))
    assert Layers(ratio=0.5, importance="perplexity").faults(model)[0] == (
        "importance=perplexity needs a language model: set importance=block_influence"
    )
    assert Layers(ratio=0.5, protect_first=0).faults(model) == []


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("ratio", [0, 0.2, 0.5])
def test_shapes_alone_have_the_counts_of_weights(ratio, importance, tiny_source):
    source, counts = replace(tiny_source, shape=tiny_source.shape | {"num_hidden_layers": 6}), []
    for weights in ("random", "meta"):
        model = replace(source, weights=weights).load(torch.float32, CPU)
        apply_or_plan(Layers(ratio=ratio, importance=importance), model, ids())
        counts.append((parameter_count(model.module), len(model.blocks), model.config.num_hidden_layers))
    assert counts[0] == counts[1]
    assert counts[0][1] == 6 - int(6 * ratio)


def test_a_quarter_of_llama_2_7b_is_8_blocks():
    model = meta_model("llama_2_7b")
    Layers(ratio=0.25).plan(model)
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert parameter_count(model.module) == 6_738_415_616 - 8 * block


def test_bad_knobs_are_named_together():
    with pytest.raises(ValueError) as error:
        Layers(ratio=1.5, importance="angle", protect_first=-1, protect_last=True)
    assert str(error.value).split("; ")[1:] == [
        "importance='angle': give block_influence or perplexity",
        "protect_first=-1: give a whole number of at least 0",
        "protect_last=True: give a whole number of at least 0",
    ]


def test_it_looks_at_text_and_neither_at_gradients_nor_the_seed():
    for importance in IMPORTANCES:
        technique = Layers(ratio=0.5, importance=importance)
        assert technique.requirements == Requirements(calibration=True)


def test_golden_output_of_version_1(deep):
    assert Layers.version == 1
    angles = [10, 60, 50, 40, 30, 20]  # degrees by which each block turns what enters it
    for block, angle in zip(deep.blocks, angles, strict=True):
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))

        def turn(_block, args, _output, cosine=cosine, sine=sine):
            x, y = args[0].chunk(2, dim=-1)
            return torch.cat([x * cosine - y * sine, x * sine + y * cosine], dim=-1)

        block.register_forward_hook(turn)
    expected = [1 - math.cos(math.radians(angle)) for angle in angles]
    assert block_influence(deep, text_batch(ids())).tolist() == pytest.approx(expected, abs=1e-5)
    (entry,) = Layers(ratio=0.4).apply(deep, text_context(ids())).notes["details"]
    assert entry["blocks"] == [3, 4]  # the ends are protected


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_trained_model_loses_a_block_it_can_spare(importance, shared, stories260k_source):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    token_ids = torch.tensor(stories260k_source.tokenizer()(text)["input_ids"][: 4 * 256]).view(4, 256)
    without = {}
    for index in (1, 2, 3):
        model = stories260k_source.load(torch.float32, CPU)
        remove_blocks(model, [index])
        without[index] = perplexity(model.module, token_ids)
    model = stories260k_source.load(torch.float32, CPU)
    (entry,) = Layers(ratio=0.2, importance=importance).apply(model, text_context(token_ids)).notes["details"]
    found = perplexity(model.module, token_ids)
    assert found == pytest.approx(without[entry["blocks"][0]], rel=1e-6)
    assert found < max(without.values())
    if importance == "perplexity":
        assert found == pytest.approx(min(without.values()), rel=1e-6)


def test_the_first_blocks_of_smollm2(smollm2):
    model = first_blocks(smollm2, 4)
    token_ids, dense = text_ids(model, 2, 64), model.copy()
    assert block_influence(model, text_batch(token_ids)).tolist() == pytest.approx(
        influences(dense, token_ids), rel=1e-3
    )
    (entry,) = Layers(ratio=0.25, importance="perplexity").apply(model, text_context(token_ids)).notes["details"]
    losses = []
    for index in (1, 2):
        shorter = dense.copy()
        remove_blocks(shorter, [index])
        losses.append(text_loss(shorter, token_ids))
    assert entry["scores"][1:3] == pytest.approx(losses, rel=1e-4)
    assert entry["blocks"] == [1 + losses.index(min(losses))]


def test_a_model_scaled_by_block_numbers_is_refused(tmp_path):
    shape = DECODERS["gpt2"] | {"n_layer": 4, "scale_attn_by_inverse_layer_idx": True}
    skeleton = RandomModel(name="scaled", shape=shape, cache_dir=str(tmp_path)).skeleton()
    assert any("scales attention" in fault for fault in Layers(ratio=0.25).faults(skeleton))
