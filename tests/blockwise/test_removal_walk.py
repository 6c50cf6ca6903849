from dataclasses import replace

import pytest
import torch
from reductions import loud
from removed import ids
from restatements import layer_inputs

from slimsweep.blockwise import walk
from slimsweep.blockwise.removal_walk import (
    Choice,
    lowest_units,
    lowest_units_overall,
    reduce_blocks,
)
from slimsweep.errors import ModelError
from slimsweep.linear.base import weight_2d
from slimsweep.models import anatomy
from slimsweep.models.anatomy import units_of
from slimsweep.models.batches import text_batch
from slimsweep.models.surgery import remove
from slimsweep.numerics.least_squares import least_squares

BOTH = ("heads", "neurons")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T @ inputs / len(inputs)


def reduce(model, kinds_by_block, choose, looks=True, repair=False):
    return reduce_blocks(model, kinds_by_block, choose, text_batch(ids()) if looks or repair else None, repair, "test")


def test_the_lowest_go_and_the_first_of_equals_first():
    assert lowest_units(torch.tensor([2.0, 1.0, 1.0, 0.5]), 2) == [3, 1]
    assert lowest_units(torch.tensor([2.0, 1.0]), 0) == []


def test_the_lowest_of_several_places_together_by_hand():
    scores = {"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([0.5, 0.1]), "c": torch.tensor([9.0])}
    assert lowest_units_overall(scores, 0) == {"a": [], "b": [], "c": []}
    assert lowest_units_overall(scores, 1) == {"a": [], "b": [1], "c": []}
    assert lowest_units_overall(scores, 2) == {"a": [1], "b": [1], "c": []}  # b keeps its best, though 0.5 is less
    assert lowest_units_overall(scores, 3) == {"a": [1, 2], "b": [1], "c": []}


@pytest.mark.parametrize("ties", [False, True])
def test_every_place_keeps_one_and_the_count_is_exact(ties):
    sizes = {4: 3, 0: 5, 2: 1, 1: 4}
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        scores = {place: torch.rand(size, generator=generator) for place, size in sizes.items()}
        if ties:
            scores = {place: (3 * values).floor() for place, values in scores.items()}
        for count in range(sum(sizes.values()) - len(sizes) + 1):
            gone = lowest_units_overall(scores, count)
            assert list(gone) == list(sizes)
            assert sum(len(set(units)) for units in gone.values()) == count
            for place, units in gone.items():
                stay = set(range(sizes[place])) - set(units)
                assert stay and max(scores[place][list(stay)]) == scores[place].max()
            removed = [float(scores[place][unit]) for place, units in gone.items() for unit in units]
            spare = [
                float(scores[place][unit])
                for place, units in gone.items()
                for unit in set(range(sizes[place])) - set(units) - {int(scores[place].argmax())}
            ]
            assert max(removed, default=0) <= min(spare, default=9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value):
    scores = torch.tensor([1.0, value, 2.0])
    with pytest.raises(ModelError, match="importance of some units is not finite.*dtype=bfloat16"):
        lowest_units(scores, 1)
    with pytest.raises(ModelError, match="importance of some units is not finite.*dtype=bfloat16"):
        lowest_units_overall({0: torch.ones(2), 1: scores}, 1)


def test_a_block_keeps_one_unit_of_each_kind(tiny):
    with pytest.raises(ModelError, match="No heads would be left in block 1: an earlier stage left 2"):
        reduce(tiny, {1: BOTH}, lambda _index, units, _seen: Choice(range(len(units))))
    assert len(anatomy.heads(tiny, 1)) == 2


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_each_choice_sees_what_the_reduced_model_before_it_gives(name, tmp_path):
    model, seen = loud(name, str(tmp_path)), {}
    dense = model.copy()
    gone = {(0, "heads"): [1], (0, "neurons"): [3, 40], (1, "heads"): [0], (1, "neurons"): [0, 1, 2]}

    def choose(index, units, second_moment):
        seen[index, units.kind] = second_moment.clone()
        return Choice(gone[index, units.kind])

    reduce(model, dict.fromkeys((0, 1), BOTH), choose)
    for (index, kind), chosen in gone.items():  # the same steps, each after a plain forward of the whole model
        units = units_of(dense, kind, index)
        (inputs,) = layer_inputs(dense.module, [units.reader.name], ids()).values()
        scale = float(seen[index, kind].abs().max())
        assert torch.allclose(seen[index, kind], moment(inputs), atol=1e-5 * scale)
        remove(dense, units, chosen)
    before = units_of(loud(name, str(tmp_path)), "neurons", 1).reader.name
    (inputs,) = layer_inputs(loud(name, str(tmp_path)).module, [before], ids()).values()
    assert not torch.allclose(seen[1, "neurons"], moment(inputs), atol=1e-3 * scale)


def test_a_repair_is_fitted_on_what_the_reduced_and_repaired_model_before_it_gives(tmp_path):
    model = loud("llama", str(tmp_path))
    half_way = model.copy()
    gone = {"heads": [1], "neurons": list(range(20))}
    choose = lambda _index, units, _seen: Choice(gone[units.kind])  # noqa: E731
    entries = reduce(model, {0: BOTH, 1: ("neurons",)}, choose, looks=False, repair=True)
    assert all(entry["error_after_repair"] < entry["error_before_repair"] for entry in entries)
    reduce(half_way, {0: BOTH}, choose, looks=False, repair=True)
    units = units_of(half_way, "neurons", 1)
    (inputs,) = layer_inputs(half_way.module, [units.reader.name], ids()).values()
    weight, kept = weight_2d(units.reader.module).double(), weight_2d(model.blocks[1].mlp.down_proj)
    repaired, before, after, _ = least_squares(weight, moment(inputs.double()), torch.arange(20))
    assert torch.allclose(kept.double(), repaired[:, 20:], atol=1e-4 * float(weight.abs().max()))
    assert (entries[2]["error_before_repair"], entries[2]["error_after_repair"]) == (
        pytest.approx(before, rel=1e-4),
        pytest.approx(after, rel=1e-4),
    )


def test_entries_tell_what_went_in_the_order_it_went(tiny):
    entries = reduce(tiny, {1: BOTH, 0: ("neurons",)}, lambda index, *_: Choice([0], {"note": index}))
    assert entries == [
        {"block": 0, "kind": "neurons", "before": 48, "members": 1, "note": 0, "removed": 1},
        {"block": 1, "kind": "heads", "before": 2, "members": 2, "note": 1, "removed": 1},
        {"block": 1, "kind": "neurons", "before": 48, "members": 1, "note": 1, "removed": 1},
    ]
    shape = anatomy.shape_of(tiny).blocks
    assert [(block.heads, block.key_value_heads, block.neurons) for block in shape] == [(4, 2, 47), (2, 1, 47)]


def test_without_text_nothing_is_collected_and_shapes_are_enough(tiny_source, tiny, monkeypatch):
    monkeypatch.setattr(walk, "Activations", None)
    seen = []
    choose = lambda _index, _units, second_moment: seen.append(second_moment) or Choice([0])  # noqa: E731
    reduce(tiny, {0: BOTH}, choose, looks=False)
    skeleton = replace(tiny_source, weights="meta").load(torch.float32, torch.device("cpu"))
    reduce_blocks(skeleton, {0: BOTH}, choose, repair=True)
    assert seen == [None] * 4
    with pytest.raises(TypeError):
        reduce(tiny, {0: BOTH}, choose, looks=True)


def test_a_plan_of_nothing_changes_nothing(tiny):
    assert reduce(tiny, {}, lambda *_: Choice([0])) == []


def test_a_block_that_loses_nothing_is_not_repaired(tiny):
    before = weight_2d(tiny.blocks[0].mlp.down_proj).clone()
    (entry,) = reduce(tiny, {0: ("neurons",)}, lambda *_: Choice([]), repair=True)
    assert entry["removed"] == 0 and "error_before_repair" not in entry
    assert torch.equal(weight_2d(tiny.blocks[0].mlp.down_proj), before)


def test_inputs_that_are_not_finite_are_refused_by_name(tiny):
    tiny.blocks[1].mlp.up_proj.weight[0] = float("inf")
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.down_proj are not finite.*dtype=bfloat16"):
        reduce(tiny, {1: ("neurons",)}, lambda *_: Choice([]))
