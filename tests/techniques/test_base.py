"""Every technique of conf/ through the contract of `techniques/base.py`, so that none escapes."""

import ast
import dataclasses

import pytest
import torch
from conftest import CACHE, PROJECT, TINY_SHAPE
from contexts import text_context
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_training import counting_data

import slimsweep.cli.app  # registers the resolvers of conf/config.yaml
from slimsweep.blockwise.stage_context import StageContext
from slimsweep.evaluation.cost import Cost
from slimsweep.evaluation.size import Size
from slimsweep.models import anatomy
from slimsweep.models.sources.random import RandomModel
from slimsweep.techniques.base import Requirements, Technique
from slimsweep.techniques.pruning.base import PruningCounts
from slimsweep.techniques.pruning.magnitude import Magnitude

assert slimsweep.cli.app

NAMES = sorted(path.stem for path in (PROJECT / "conf" / "technique").glob("*.yaml"))
OTHERS = {"llmcompressor", "llmcompressor_quantizer", "sparseml", "distill_reasoning"}
"""Techniques that need another package, or problems to solve, to be applied."""
DEEP = RandomModel(name="deep", shape=TINY_SHAPE | {"num_hidden_layers": 8}, cache_dir=str(CACHE))


def made(name: str, *overrides: str) -> Technique:
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("config", [f"technique={name}", "ratio=0.5", *overrides]).technique[name]
    if name == "eora":
        config.rank = 4
    if "tokens" in config and "batch_sequences" in config:  # a few steps of training
        config.tokens = 300
    few = {"autoround": {"steps": 3}, "awq": {"steps": 3}, "lora_prune": {"removals": 2, "score_batches": 1}}
    config.update(few.get(name, {}))  # of what decides neither shapes nor counts
    if config.get("group_size") and name != "sparsegpt":  # which has groups with bits only
        config.group_size = 16  # divides the widths of the tiny model
    return instantiate(config, _convert_="all")


def depth(kind: type) -> int:
    """Levels of inheritance below Technique; mix-ins are none."""
    return 0 if kind is Technique else 1 + max(depth(base) for base in kind.__bases__ if issubclass(base, Technique))


def context_of(technique: Technique, model) -> StageContext:
    """Calibration text, and what a technique requires beside it."""
    context, needs = text_context(torch.arange(64).view(2, 32)), technique.requirements
    if needs.data:
        context = dataclasses.replace(context, data=counting_data(model))
    return dataclasses.replace(context, teacher=model.copy) if needs.teacher else context


@pytest.mark.parametrize("name", NAMES)
def test_two_levels_below_technique_are_enough(name):
    assert 1 <= depth(type(made(name))) <= 2


@pytest.mark.parametrize("name", sorted({*NAMES} - OTHERS - {"selective"}))  # it plans without sensitivities
def test_a_plan_leaves_the_shapes_zeros_and_bits_that_applying_leaves(name):
    technique, skeleton = made(name), DEEP.skeleton().copy()
    model = DEEP.load(torch.float32, torch.device("cpu"))
    attributes = set(vars(model))
    if name == "eora":  # refused where nothing was lost
        Magnitude(ratio=0.5).plan(skeleton)
        Magnitude(ratio=0.5).apply(model, StageContext())
    assert technique.faults(skeleton) == []
    planned = technique.plan(skeleton)
    report = technique.apply(model, context_of(technique, model))
    sizes, found = (Size().measure(one, None).values for one in (skeleton, model))
    stored = ("parameters", "weight_bytes", "bits_per_weight", "compression_factor", "checkpoint_bytes")
    assert {field: sizes[field] for field in stored} == {field: found[field] for field in stored}
    assert Cost().measure(skeleton, None).values["gmacs"] == Cost().measure(model, None).values["gmacs"]
    parts = [anatomy.shape_of(one) for one in (skeleton, model)]
    assert [len(shape.blocks) for shape in parts] == [len(parts[1].blocks)] * 2
    assert [(layer.name, layer.weights) for layer in planned.layers] == [
        (layer.name, layer.weights) for layer in report.layers
    ]
    if isinstance(technique, PruningCounts):  # a quantizer rounds other weights to zero too
        assert [layer.zeros for layer in planned.layers] == [layer.zeros for layer in report.layers]
        assert sum(skeleton.zeros.values()) == sum(layer.zeros for layer in report.layers) > 0
    assert set(vars(model)) == attributes  # nothing of a job is stored on the model


@pytest.mark.parametrize("name", sorted([*OTHERS, "selective"]))
def test_techniques_that_are_not_applied_here_plan_all_the_same(name):
    skeleton = DEEP.skeleton().copy()
    report = made(name).plan(skeleton)
    assert [layer.name for layer in report.layers] == list(skeleton.targets())


def test_requirements_follow_the_knobs():
    assert made("random").requirements == Requirements(seed=True, whole_model=False)
    assert made("wanda").requirements == Requirements(calibration=True, whole_model=False)
    halting = made("wanda", "technique.wanda.inputs=sequential")
    assert halting.requirements == Requirements(calibration=True, whole_model=False, whole_text=True)
    assert made("magnitude").requirements == Requirements(whole_model=False)
    assert made("magnitude", "technique.magnitude.scope=global").requirements == Requirements()
    assert made("half").requirements == Requirements()
    norms = ("technique.llm_pruner.importance=l2",)
    assert made("llm_pruner").requirements == Requirements(calibration=True, gradients=True)
    assert made("llm_pruner", *norms).requirements == Requirements()
    repaired = made("llm_pruner", *norms, "technique.llm_pruner.repair=true")
    assert repaired.requirements == Requirements(calibration=True)
    assert made("llm_pruner", "technique.llm_pruner.importance=random").requirements == Requirements(seed=True)


def raises_only(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing but raise."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return len(body) == 1 and isinstance(body[0], ast.Raise)


@pytest.mark.parametrize("room", ["techniques", "blockwise"])
def test_no_method_is_implemented_by_raising(room):
    files = [*(PROJECT / "src" / "slimsweep" / room).rglob("*.py")]
    functions = [
        (file.name, node.name, node)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(functions) > 50 and not [(file, name) for file, name, node in functions if raises_only(node)]
    (refusing,) = ast.parse('def f(self):\n    """Doc."""\n    raise TypeError\n').body
    assert raises_only(refusing)
