import json
import logging
import re
from dataclasses import replace

import pytest
import torch
from conftest import meta_model
from contexts import text_context
from removed import ids

from slimsweep.models import anatomy
from slimsweep.models.language_model import parameter_count
from slimsweep.techniques.structured.glu import Glu
from slimsweep.techniques.structured.heads import Heads
from slimsweep.techniques.structured.layers import Layers
from slimsweep.techniques.structured.llm_pruner import LLMPruner
from slimsweep.techniques.structured.qap import Qap

EVERY = (Glu, Heads, Layers, LLMPruner, Qap)
BLOCKWISE = (Glu, Heads, LLMPruner, Qap)


@pytest.mark.parametrize("technique", EVERY)
@pytest.mark.parametrize("ratio", [1, 1.0, -0.1, 2, True, float("nan"), float("inf")])
def test_a_ratio_that_cannot_be_is_named(technique, ratio):
    with pytest.raises(ValueError, match=rf"ratio={ratio!r}: give a number in \[0, 1\)"):
        technique(ratio=ratio)


@pytest.mark.parametrize("technique", EVERY)
@pytest.mark.parametrize("blocks", [[1], [0, 1, 2], [1, 0], [-1, 1], [False, True], []])
def test_a_range_that_is_none_is_named(technique, blocks):
    with pytest.raises(ValueError, match=r"blocks=.*give the first and the last block, such as \[4,27\]"):
        technique(ratio=0.5, blocks=blocks)


@pytest.mark.parametrize("technique", BLOCKWISE)
def test_all_bad_values_are_named_in_one_message(technique):
    with pytest.raises(ValueError, match=r"^ratio=1.5: give [^;]*; blocks=\(3, 1\): give [^;]*$"):
        technique(ratio=1.5, blocks=[3, 1])


def test_bad_knobs_of_a_technique_join_those_of_all():
    with pytest.raises(ValueError) as error:
        LLMPruner(ratio=-1, blocks=[3, 1], level="channel", repair=True, order="third", steps=0)
    faults = str(error.value).split("; ")
    assert [fault.split("=")[0].split()[0] for fault in faults] == [
        *("ratio", "blocks", "order", "steps", "repair", "blocks")
    ]


@pytest.mark.parametrize("technique", EVERY)
def test_knobs_are_kept_as_plain_values(technique):
    made = technique(ratio=0, blocks=[1, 2])
    assert made.ratio == 0.0 and type(made.ratio) is float
    assert made.blocks == (1, 2)
    assert made == technique(ratio=0.0, blocks=(1, 2)) and hash(made) == hash(technique(ratio=0.0, blocks=(1, 2)))


@pytest.mark.parametrize("technique", EVERY)
@pytest.mark.parametrize("blocks", [[0, 2], [2, 2], [5, 9]])
def test_ranges_outside_the_model_are_faults(technique, blocks, tiny):
    (fault,) = technique(ratio=0.1, blocks=blocks).faults(tiny)
    assert fault == f"blocks={blocks} lie outside the model, whose blocks are 0 to 1"


@pytest.mark.parametrize("technique", EVERY)
@pytest.mark.parametrize("blocks", [[0, 1], [1, 1], [0, 0]])
def test_ranges_within_the_model_are_none(technique, blocks, tiny):
    assert technique(ratio=0.1, blocks=blocks).faults(tiny) == []


def test_of_two_blocks_the_default_range_is_both(tiny):
    assert LLMPruner(ratio=0.5).block_range(tiny) == [0, 1]
    assert LLMPruner(ratio=0.5).faults(tiny) == []


@pytest.mark.parametrize("technique", [Glu, Heads, Qap])
def test_the_default_range_is_every_block(technique, tiny):
    assert technique(ratio=0.1).block_range(tiny) == [0, 1]


@pytest.mark.parametrize(
    ("technique", "message"),
    [
        (Glu(ratio=0.99), "ratio=0.99 would leave none of the 48 neurons of block 0 and 1 more: give a smaller ratio"),
        (Qap(ratio=0.99, blocks=[1, 1]), "ratio=0.99 would leave none of the 48 neurons of block 1: give a smaller"),
        (Qap(ratio=0.99, parts=["heads"]), "ratio=0.99 would leave none of the 2 heads of block 0 and 1 more"),
        (LLMPruner(ratio=0.99, blocks=[0, 1]), "none of the 2 heads of block 0 and 1 more.*none of the 48 neurons"),
    ],
)
def test_a_ratio_that_leaves_nothing_names_the_blocks(technique, message, tiny):
    assert re.search(message, " ".join(technique.faults(tiny)))


def test_the_report_holds_the_shapes_before_and_after(tiny):
    before, parameters = anatomy.shape_of(tiny).as_plain(), parameter_count(tiny.module)
    report = Qap(ratio=0.5, parts=["heads", "neurons"], blocks=[1, 1]).apply(tiny, text_context(ids()))
    notes = report.notes
    assert (
        notes["before"]
        == before
        == {
            "channels": 32,
            "blocks": [{"heads": 4, "key_value_heads": 2, "neurons": 48}] * 2,
        }
    )
    assert notes["after"] == {
        "channels": 32,
        "blocks": [
            {"heads": 4, "key_value_heads": 2, "neurons": 48},
            {"heads": 2, "key_value_heads": 1, "neurons": 24},
        ],
    }
    gone = 24 * 3 * 32 + 2 * (16 + 8) * 32  # gate, up and down; a group's queries and its keys, with o_proj and v_proj
    assert notes["removed_parameters"] == gone == parameters - parameter_count(tiny.module)
    assert [entry["kind"] for entry in notes["details"]] == ["heads", "neurons"]
    assert report.layers == [] and "warning" not in notes
    json.dumps(notes, allow_nan=False)


@pytest.mark.parametrize(
    "technique", [Qap(ratio=0.01, parts=["heads"]), Glu(ratio=0), Heads(ratio=0.2), Layers(ratio=0.4)]
)
def test_a_stage_that_removes_nothing_warns_and_says_so(technique, tiny, caplog):
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    with caplog.at_level(logging.WARNING, "slimsweep.techniques.structured.base"):
        notes = technique.apply(tiny, text_context(ids())).notes
    assert notes["warning"] == "removed nothing: what was asked for is less than one whole unit"
    assert notes["removed_parameters"] == 0 and notes["before"] == notes["after"]
    assert [record.getMessage() for record in caplog.records] == [f"{type(technique).__name__} {notes['warning']}"]
    assert all(torch.equal(value, before[name]) for name, value in tiny.module.state_dict().items())


def test_a_stage_that_removes_something_warns_of_nothing(tiny, caplog):
    assert "warning" not in Glu(ratio=0.5).apply(tiny, text_context(ids())).notes
    assert not caplog.records


@pytest.mark.parametrize("technique", EVERY)
def test_a_ratio_is_of_what_the_stage_before_left(technique, tiny_source):
    model = replace(tiny_source, weights="meta").load(torch.float32, torch.device("cpu"))
    technique = Glu(ratio=0.5) if technique is Layers else technique(ratio=0.5, blocks=[0, 1])
    for _ in range(2):
        technique.plan(model)
    after = anatomy.shape_of(model).blocks
    neurons = 48 if isinstance(technique, Heads) else 12
    assert [block.neurons for block in after] == [neurons, neurons]


@pytest.mark.parametrize(("ratio", "groups", "neurons"), [(0.25, 0, 384), (0.4, 1, 615), (0.6, 1, 922), (0.7, 2, 1076)])
def test_whole_groups_of_query_heads_go_in_smollm2(ratio, groups, neurons):
    model = meta_model("smollm2_135m")  # 9 query heads of 64 in 3 groups, 1,536 neurons
    assert len(anatomy.heads(model, 5)) == anatomy.heads(model, 5).members == 3
    technique = LLMPruner(ratio=ratio)
    assert technique.removed_count(anatomy.heads(model, 5)) == groups
    assert technique.removed_count(anatomy.neurons(model, 5)) == neurons


def test_a_quarter_of_llama_2_7b_is_8_heads_and_2752_neurons():
    model = meta_model("llama_2_7b")
    assert LLMPruner(ratio=0.25).removed_count(anatomy.heads(model, 4)) == 8
    assert LLMPruner(ratio=0.25).removed_count(anatomy.neurons(model, 4)) == 2752
    assert LLMPruner(ratio=0.3).removed_count(anatomy.heads(model, 4)) == 9  # 1,229 of 4,096 channels: 9 heads of 128
