from dataclasses import replace

import torch

from slimsweep.models.language_model import LanguageModel
from slimsweep.models.skeleton import Skeleton
from slimsweep.techniques.structured.llm_pruner import LLMPruner

UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.10.mlp.down_proj"


def test_only_shapes_have_planned_zeros(tiny_source, tiny):
    shapes = replace(tiny_source, weights="meta").load(torch.bfloat16, torch.device("cpu"))
    for model in (tiny_source.skeleton(), shapes, shapes.copy()):
        assert isinstance(model, Skeleton) and model.is_meta and model.zeros == {}
    for model in (tiny, tiny.copy()):
        assert type(model) is LanguageModel and not hasattr(model, "zeros")


def test_a_copy_plans_for_itself(tiny_source):
    first = tiny_source.skeleton().copy()
    first.zeros[UP] = 3
    second = first.copy()
    second.zeros[UP] = 5
    assert first.zeros == {UP: 3} and second.zeros == {UP: 5} and tiny_source.skeleton().zeros == {}


def test_zeros_shrink_in_proportion_rounded_down(tiny_source):
    skeleton = tiny_source.skeleton().copy()
    skeleton.zeros = {UP: 7}
    skeleton.resize_zeros(UP, kept=3, before=4)
    skeleton.resize_zeros(DOWN, kept=3, before=4)
    assert skeleton.zeros == {UP: 5}


def test_zeros_follow_their_blocks_and_go_with_them(tiny_source):
    skeleton = tiny_source.skeleton().copy()
    skeleton.zeros = {UP: 1, DOWN: 2, "model.layers.2.mlp.up_proj": 3}
    skeleton.move_zeros({"model.layers.1": "model.layers.0", "model.layers.10": "model.layers.1"})
    assert skeleton.zeros == {"model.layers.0.mlp.up_proj": 1, "model.layers.1.mlp.down_proj": 2}


def test_the_shapes_that_were_loaded_outlast_plans(tiny_source):
    first = tiny_source.skeleton().copy()
    shapes = dict(first.loaded_shapes)
    assert shapes["model.layers.1.mlp.up_proj"] == (48, 32) and len(shapes) == 14
    LLMPruner(ratio=0.5, blocks=[0, 1]).plan(first)
    assert first.copy().loaded_shapes == first.loaded_shapes == shapes


def test_departures_of_a_copy_are_its_own(tiny_source):
    first = tiny_source.skeleton().copy()
    first.departures.append("lora trains")
    second = first.copy()
    second.departures.append("awq moves scales between layers")
    assert first.departures == ["lora trains"] and len(second.departures) == 2
