"""Chains through the command: every order that works, what packing again costs, and what is refused with its reason."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from omegaconf import OmegaConf
from stages import SMALL, comparable, experiment

from slimsweep.errors import ConfigError
from slimsweep.linear.base import packed_layers, weight_2d
from slimsweep.linear.mask import removed
from slimsweep.pipeline.chain import compress

GROUPS = ("technique.rtn.group_size=32",)


def record_of(answer) -> dict:
    assert answer.status == 0, answer.err
    return json.loads(Path(answer.out.strip().splitlines()[-1]).read_text())


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        ("[sparsegpt,nf4]", "nf4"),
        ("[nf4,sparsegpt]", "nf4"),
        ("[rtn,sparsegpt]", "integer"),
        ("[magnitude,rtn,magnitude_2]", "integer"),
        ("[glu,sparsegpt,gptq]", "integer"),
        ("[wanda,half,nf4,rtn]", "integer"),
    ],
)
def test_chains_of_two_three_and_more_run_in_their_order(chain, kind, slimsweep):
    names = chain.strip("[]").split(",")
    second = ("+technique@technique.magnitude_2=magnitude", "technique.magnitude_2.ratio=0.7")
    repeated = second if "magnitude_2" in names else ()
    listed = f"[{','.join(name for name in names if name != 'magnitude_2')}]"
    record = record_of(slimsweep(*SMALL, f"technique={listed}", *repeated, "dtype=float32"))
    assert [stage["name"] for stage in record["stages"]] == names
    assert record["technique"] == "+".join(names).replace("_2", "")
    last = record["stages"][-1]
    for position, stage in enumerate(record["stages"]):
        later = [other["name"] for other in record["stages"][position:]]
        assert list(stage["sparsity_after"]) == later
    if any(stage["fields"].get("ratio") == 0.5 and stage["weights"] for stage in record["stages"]):
        assert record["sparsity"] >= 0.5 - 0.01
    assert record["bits_per_weight"] < 16
    assert last["weights"] and record["weights_digest"]


def test_the_layers_that_are_packed_are_those_of_the_last_quantizer(tmp_path):
    done = compress(experiment(tmp_path, "technique=[nf4,rtn]", "cache=off"))
    assert {layer.kind for layer in packed_layers(done.model.module).values()} == {"integer"}
    done = compress(experiment(tmp_path, "technique=[rtn,nf4]", "cache=off"))
    assert {layer.kind for layer in packed_layers(done.model.module).values()} == {"nf4"}


@pytest.mark.parametrize("quantizer", ["rtn", "nf4", "gptq"])
@pytest.mark.parametrize("pruner", ["magnitude", "wanda", "random"])
def test_pruning_packed_weights_packs_them_again_without_an_error(quantizer, pruner, tmp_path):
    """What stays is one of the levels already, so nothing is rounded twice."""
    done = compress(experiment(tmp_path, f"technique=[{quantizer},{pruner}]", "dtype=float32", "cache=off"))
    alone = compress(experiment(tmp_path, f"technique={quantizer}", "dtype=float32", "cache=off"))
    assert done.stages[1]["notes"]["packing_error"]["largest"] == 0
    assert all(layer["error"] == 0 for layer in done.layers[1]["layers"])
    for name, layer in done.model.targets().items():
        before = alone.model.targets()[name].weight
        stays = layer.weight != 0
        assert torch.equal(layer.weight[stays], before[stays])
        assert int(stays.sum()) <= math.ceil(before.numel() / 2)


def test_a_pruner_that_corrects_the_rest_records_what_packing_again_cost(tmp_path):
    done = compress(experiment(tmp_path, "technique=[rtn,sparsegpt]", "dtype=float32", "cache=off"))
    error = done.stages[1]["notes"]["packing_error"]
    assert 0 < error["mean"] <= error["largest"] < 0.2
    assert error["layer"] in done.model.targets()
    assert done.stages[1]["sparsity"] >= 0.5


@pytest.mark.parametrize("of", ["original", "remaining"])
def test_passes_over_packed_weights_are_those_over_their_values(of, tmp_path):
    own = (f"technique.magnitude.relative_to={of}", "dtype=float32", "cache=off", "ratio=0.3")
    once = compress(experiment(tmp_path, "technique=[rtn,magnitude]", *own))
    twice = compress(experiment(tmp_path, "technique=[rtn,magnitude]", "technique.magnitude.passes=2", *own))
    is_same = comparable(once)[3] == comparable(twice)[3]
    assert is_same is (of == "original")
    # What rounding made zero is not removed yet: it goes first, within the count.
    expected = 0.3 if of == "original" else 1 - 0.7**2
    assert twice.stages[1]["sparsity"] == pytest.approx(expected, abs=0.001)


def test_zeros_of_a_pruner_stay_zeros_under_every_quantizer_of_a_chain(tmp_path):
    done = compress(experiment(tmp_path, "technique=[magnitude,nf4,rtn,gptq]", "dtype=float32", "cache=off"))
    pruned = compress(experiment(tmp_path, "technique=magnitude", "dtype=float32", "cache=off"))
    for name, layer in pruned.model.targets().items():
        assert not done.model.targets()[name].weight[layer.weight == 0].any()
    after = done.stages[0]["sparsity_after"]
    assert min(after.values()) == after["magnitude"] == 0.5


@pytest.mark.parametrize("structured", ["glu", "heads", "qap", "llm_pruner"])
@pytest.mark.parametrize("quantizer", ["rtn", "nf4"])
def test_parts_of_packed_weights_cannot_go_and_the_reason_comes_before_anything_loads(
    quantizer, structured, slimsweep, monkeypatch
):
    monkeypatch.setattr("slimsweep.models.sources.base.ModelSource.load", None)
    answer = slimsweep(*SMALL, f"technique=[{quantizer},{structured}]", "ratio=0.25")
    assert answer.status == 1
    assert f"technique.{structured}: 14 layers are stored as " in answer.err
    assert "whole parts can be cut out of plain weights only: put this stage before the one that" in answer.err


def test_channels_of_packed_weights_cannot_go_either(tmp_path):
    with pytest.raises(ConfigError, match="put this stage before the one that stores them so"):
        experiment(tmp_path, "technique=[rtn,llm_pruner]", "technique.llm_pruner.level=channel", "ratio=0.25")


def test_whole_blocks_of_packed_weights_may_go(slimsweep):
    chain = ("technique=[rtn,layers]", "technique.layers.ratio=0.34", "model.shape.num_hidden_layers=3")
    record = record_of(slimsweep(*SMALL, *chain, "dtype=float32"))
    assert record["stages"][1]["notes"]["details"][0]["blocks"] == [1]
    kept = record["stages"][0]["sparsity_after"]
    assert set(kept) == {"rtn", "layers"} and record["bits_per_weight"] < 8
    block = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64 + 2 * 64
    assert record["parameters"] == 2 * block + 258 * 64 + 64


def test_groups_that_a_narrower_layer_cannot_have_are_told_before_anything_loads(tmp_path):
    with pytest.raises(ConfigError, match=r"technique.rtn: group_size=64 does not divide the input width .*\(96\)"):
        experiment(tmp_path, "technique=[glu,rtn]", "technique.rtn.group_size=64", "ratio=0.25")
    assert experiment(tmp_path, "technique=[glu,rtn]", *GROUPS, "ratio=0.25")


def test_the_plan_of_a_chain_is_what_real_weights_give(slimsweep):
    chain = ("technique=[magnitude,glu,rtn,wanda]", *GROUPS, "technique.glu.ratio=0.25", "technique.wanda.ratio=0.6")
    real = record_of(slimsweep(*SMALL, *chain))
    plan = record_of(slimsweep(*SMALL, *chain, "model.weights=meta"))
    for field in ("parameters", "weight_bytes", "bits_per_weight", "gmacs"):
        assert plan[field] == real[field], field
    assert plan["sparsity"] == pytest.approx(real["sparsity"], abs=0.02)


def test_what_other_sweeps_have_recorded_is_found_again_by_quantized(slimsweep):
    own = ("model=random", "model.shape.num_hidden_layers=8", "model.weights=meta", "ratio=0.5", "dry_run=true")
    names = ("quantized", "unstructured", "structured_block")
    listed = {}
    for name in names:
        lines = slimsweep(f"+sweeps={name}", *own, "evaluation=cost").out.splitlines()
        listed[name] = {line.split()[0] for line in lines if " missing " in line}
    assert len(listed["quantized"]) == 6
    assert len(listed["quantized"] & listed["unstructured"]) == 2  # the baseline and sparsegpt
    assert len(listed["quantized"] & listed["structured_block"]) == 2  # the baseline and llm_pruner
    grids = {name: OmegaConf.load(PROJECT / "sweeps" / f"{name}.yaml").hydra.sweeper.grids for name in names}
    assert grids["quantized"][1].ratio == grids["unstructured"][1].ratio
    assert grids["quantized"][2].ratio == grids["structured_block"][1].ratio


@torch.no_grad()
def test_a_pruner_keeps_every_zero_of_the_pruner_before_it(tmp_path):
    first = experiment(tmp_path, "technique=wanda", "ratio=0.3", "cache=off")
    both = experiment(
        *(tmp_path, "technique=[wanda,sparsegpt]", "technique.wanda.ratio=0.3", "technique.sparsegpt.ratio=0.5"),
        "cache=off",
    )
    before, after = compress(first).model.targets(), compress(both).model.targets()
    for name, layer in before.items():
        gone = weight_2d(layer) == 0
        assert torch.all(weight_2d(after[name])[gone] == 0) and torch.all(removed(after[name])[gone])


@torch.no_grad()
def test_zeros_of_the_model_as_loaded_are_kept_when_asked_for(tmp_path):
    ordinary, kept = (
        experiment(
            *(tmp_path, "technique=sparsegpt", "ratio=0.1", "technique.sparsegpt.block_columns=8", "cache=off", *words)
        )
        for words in ((), ("keep_zeros=true",))
    )
    assert ordinary.key != kept.key
    load = type(kept.model).load

    def with_zeros(source, *arguments, **fields):
        model = load(source, *arguments, **fields)
        for layer in model.targets().values():
            weight_2d(layer)[:, -1] = 0
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(kept.model), "load", with_zeros)
        models = [compress(made).model for made in (ordinary, kept)]
    free, frozen = ([weight_2d(layer)[:, -1] for layer in model.targets().values()] for model in models)
    assert all(torch.all(columns == 0) for columns in frozen)
    assert any(torch.any(columns != 0) for columns in free)
