from dataclasses import replace
from itertools import combinations

import pytest
import torch
from contexts import text_context
from family_shapes import DECODERS, ENCODERS, FIXED_HEADS
from planning import apply_or_plan
from reductions import loud
from removed import agree, first_blocks, ids, masked, noted, text_ids
from restatements import layer_inputs, perplexity

from slimsweep.linear.base import weight_2d
from slimsweep.models import anatomy
from slimsweep.models.anatomy import units_of
from slimsweep.models.language_model import parameter_count
from slimsweep.models.surgery import remove
from slimsweep.numerics import pairwise_exchange
from slimsweep.techniques.base import Requirements
from slimsweep.techniques.structured.qap import Qap

CPU = torch.device("cpu")


def measured(model, units, gone: list[int], token_ids) -> float:
    """Mean squared change of what the units' reader gives out when they go, over its mean square, by plain forwards."""
    (inputs,) = layer_inputs(model.module, [units.reader.name], token_ids).values()
    weight, without = weight_2d(units.reader.module).double(), inputs.double().clone()
    without[:, units.reader.index[gone].flatten()] = 0
    output = inputs.double() @ weight.T
    return float((output - without @ weight.T).square().sum() / output.square().sum())


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gpt_neox", "bert"])
@pytest.mark.parametrize("kind", ["neurons", "heads"])
def test_the_objective_is_the_measured_change_of_the_output(kind, name, tmp_path, monkeypatch):
    dense, gone = loud(name, str(tmp_path)), noted(monkeypatch)
    details = Qap(ratio=0.5, parts=[kind]).apply(dense.copy(), text_context(ids())).notes["details"]
    for index, entry in enumerate(details):  # each block after a forward of the model reduced so far
        units = units_of(dense, kind, index)
        found = measured(dense, units, gone[index, kind], ids())
        assert entry["objective"] == pytest.approx(found, rel=1e-3)
        scores = [measured(dense, units, [unit], ids()) for unit in range(len(units))]
        lowest = sorted(range(len(units)), key=lambda unit: scores[unit])[: entry["removed"]]
        assert entry["objective_greedy"] == pytest.approx(measured(dense, units, lowest, ids()), rel=1e-3)
        remove(dense, units, gone[index, kind])


@pytest.mark.parametrize("fields", [{}, {"starts": ["greedy", "faq"]}, {"starts": "faq"}, {"partition": 5}])
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.8])
def test_the_objective_is_at_most_greedys(ratio, fields, tmp_path):
    model = loud("llama", str(tmp_path))
    details = Qap(ratio=ratio, **fields).apply(model, text_context(ids())).notes["details"]
    for entry in details:
        assert entry["objective"] > 0
        assert entry["objective"] <= entry["objective_greedy"] * (1 + 1e-12) or fields.get("starts") == "faq"
        assert ("start" in entry) == (fields.get("starts") == ["greedy", "faq"])


def test_exchanges_gain_and_greedy_alone_does_not(tmp_path, monkeypatch):
    gone, found = noted(monkeypatch), {}
    for exchanges in (False, True):
        technique = Qap(ratio=0.5, blocks=[0, 0], exchanges=exchanges)
        (entry,) = technique.apply(loud("gpt2", str(tmp_path)), text_context(ids())).notes["details"]
        found[exchanges] = entry, gone[0, "neurons"]
    (alone, first), (swapped, second) = found[False], found[True]
    assert alone["objective"] == alone["objective_greedy"] == swapped["objective_greedy"] > swapped["objective"]
    assert alone["exchanges"] == 0 < swapped["exchanges"]
    assert first != second and len(first) == len(second) == 64


def neuron_costs(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(16, 8, generator=generator, dtype=torch.float64)
    values = (torch.randn(200, 8, generator=generator) @ torch.randn(8, 8, generator=generator)).relu().double()
    return pairwise_exchange.interaction(weight, values.T @ values / 200, torch.arange(8)[:, None])


@pytest.mark.parametrize("seed", range(10))
def test_eight_neurons_go_as_brute_force_says(seed):
    costs, technique = neuron_costs(seed), Qap(ratio=0.5, starts=["greedy", "faq"])
    for count in range(1, 8):
        sets = [list(chosen) for chosen in combinations(range(8), count)]
        best = min(sets, key=lambda chosen: float(costs[chosen][:, chosen].sum()))
        choice = technique.solve(costs, count)
        assert sorted(choice.removed) == best
        assert choice.notes["objective"] == pytest.approx(float(costs[best][:, best].sum() / costs.sum()))


def test_two_starts_end_at_the_better_of_both():
    costs, counts = neuron_costs(3), range(1, 8)
    for count in counts:
        ends = {start: Qap(ratio=0.5, starts=start).solve(costs, count).notes for start in ("greedy", "faq")}
        both = Qap(ratio=0.5, starts=["greedy", "faq"]).solve(costs, count).notes
        assert both["objective"] == min(notes["objective"] for notes in ends.values())
        assert both["objective"] == ends[both["start"]]["objective"]


def test_outputs_that_are_all_zero_cost_nothing():
    notes = Qap(ratio=0.5).solve(torch.zeros(4, 4, dtype=torch.float64), 2).notes
    assert notes == {"objective_greedy": 0.0, "objective": 0.0, "exchanges": 0}


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_what_went_could_as_well_have_been_masked(name, tmp_path, monkeypatch):
    model = loud(name, str(tmp_path))
    dense, gone = model.copy(), noted(monkeypatch)
    parts = ["neurons", "heads"]
    if name in FIXED_HEADS:
        (fault,) = Qap(ratio=0.5, parts=parts).faults(model)
        assert "Use qap with parts=[neurons]" in fault
        parts = ["neurons"]
    technique = Qap(ratio=0.5, parts=parts)
    assert technique.faults(model) == []
    technique.apply(model, text_context(ids()))
    assert agree(model, masked(dense, gone), ids()) and not agree(model, dense, ids())


@pytest.mark.parametrize(
    ("parts", "widths"), [(["neurons"], (2, 24)), ("heads", (1, 48)), (["neurons", "heads"], (1, 24))]
)
@pytest.mark.parametrize("weights", ["random", "meta"])
def test_parts_decide_what_shrinks_on_weights_and_on_shapes(weights, parts, widths, tiny_source):
    model = replace(tiny_source, weights=weights).load(torch.float32, CPU)
    apply_or_plan(Qap(ratio=0.5, parts=parts), model, ids())
    shapes = {(block.key_value_heads, block.neurons) for block in anatomy.shape_of(model).blocks}
    assert shapes == {widths}


@pytest.mark.parametrize("ratio", [0, 0.01, 0.3, 0.7, 0.97])
def test_shapes_alone_have_the_counts_of_weights(ratio, tiny_source):
    counts = []
    for weights in ("random", "meta"):
        model = replace(tiny_source, weights=weights).load(torch.float32, CPU)
        apply_or_plan(Qap(ratio=ratio), model, ids())
        counts.append(parameter_count(model.module))
    assert counts[0] == counts[1]


def test_heads_go_before_the_neurons_of_their_block_are_judged(tiny):
    details = Qap(ratio=0.5, parts=["neurons", "heads"]).apply(tiny, text_context(ids())).notes["details"]
    assert [(entry["block"], entry["kind"]) for entry in details] == [
        *((0, "heads"), (0, "neurons"), (1, "heads"), (1, "neurons"))
    ]


def test_bad_knobs_are_named_together():
    with pytest.raises(ValueError) as error:
        Qap(ratio=2, parts=["channels"], starts=["greedy", "best"], partition=1)
    assert [fault.split("=")[0] for fault in str(error.value).split("; ")] == ["ratio", "parts", "starts", "partition"]
    with pytest.raises(ValueError, match=r"starts=\[\]: give greedy or faq"):
        Qap(ratio=0.5, starts=[])


@pytest.mark.parametrize("partition", [1, 0, -4, True])
def test_a_partition_holds_two_units_at_least(partition):
    with pytest.raises(ValueError, match=f"partition={partition}: give a whole number of at least 2"):
        Qap(ratio=0.5, partition=partition)


def test_it_always_looks_at_text_and_never_at_gradients_or_the_seed():
    technique = Qap(ratio=0.5)
    assert technique.requirements == Requirements(calibration=True)
    assert (technique.parts, technique.starts) == (("neurons",), ("greedy",))


def test_golden_output_of_version_2():
    assert Qap.version == 2
    columns = [[((7 * column + 3 * row) % 11 - 5) / 4 for column in range(8)] for row in range(4)]
    factor = torch.tensor(columns, dtype=torch.float64)
    choice = Qap(ratio=0.5).solve(factor.T @ factor, 4)
    assert sorted(choice.removed) == [0, 1, 2, 6]  # 0.375 of 3.375, the least of all sets; greedy would take 4 for 0
    assert choice.notes == {"objective_greedy": 5.375 / 3.375, "objective": 0.375 / 3.375, "exchanges": 1}


@pytest.mark.parametrize("kind", ["neurons", "heads"])
def test_repair_fits_the_data_better_than_masking(kind, tmp_path, monkeypatch):
    model, gone = loud("llama", str(tmp_path)), noted(monkeypatch)
    dense = model.copy()
    (entry,) = (
        Qap(ratio=0.5, parts=[kind], blocks=[0, 0], repair=True).apply(model, text_context(ids())).notes["details"]
    )
    units = units_of(dense, kind, 0)
    (inputs,) = layer_inputs(dense.module, [units.reader.name], ids()).values()
    keep = torch.ones(inputs.shape[1], dtype=torch.bool)
    keep[units.reader.index[gone[0, kind]].flatten()] = False
    output = inputs @ weight_2d(units.reader.module).T
    after = (output - inputs[:, keep] @ weight_2d(model.module.get_submodule(units.reader.name)).T).square().sum()
    assert entry["error_before_repair"] == pytest.approx(entry["objective"], rel=1e-4)
    assert entry["error_after_repair"] == pytest.approx(float(after / output.square().sum()), rel=1e-3)
    assert entry["error_after_repair"] < entry["error_before_repair"]


def test_exchanges_and_repair_both_lower_perplexity_on_trained_weights(shared, stories260k_source):
    text = (shared / "data" / "tinystories" / "tinystories.part1.txt").read_text()[:40_000]
    token_ids = torch.tensor(stories260k_source.tokenizer()(text)["input_ids"][: 12 * 256]).view(12, 256)
    found = {}
    for exchanges in (False, True):
        for repair in (False, True):
            model = stories260k_source.load(torch.float32, CPU)
            Qap(ratio=0.4, exchanges=exchanges, repair=repair).apply(model, text_context(token_ids[:4]))
            found[exchanges, repair] = perplexity(model.module, token_ids[4:])
    assert found[True, False] < found[False, False]
    assert found[True, True] < found[True, False] and found[False, True] < found[False, False]


def test_the_first_blocks_of_smollm2(smollm2, monkeypatch):
    model = first_blocks(smollm2)
    token_ids, dense, gone = text_ids(model, 2, 64), model.copy(), noted(monkeypatch)
    (entry,) = Qap(ratio=0.3, blocks=[1, 1], partition=512).apply(model, text_context(token_ids)).notes["details"]
    assert [block.neurons for block in anatomy.shape_of(model).blocks] == [1536, 1075, 1536]
    assert entry["objective"] < entry["objective_greedy"] and entry["exchanges"] > 0
    found = measured(dense, units_of(dense, "neurons", 1), gone[1, "neurons"], token_ids)
    assert entry["objective"] == pytest.approx(found, rel=1e-3)
    assert agree(model, masked(dense, gone), token_ids)
