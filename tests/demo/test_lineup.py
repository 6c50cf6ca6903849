"""Records that become models side by side, and those that cannot."""

import pytest
import torch
from made_up import record, sweep
from small_jobs import SMALL, record_at

from slimsweep.demo.lineup import Lineup, placed, writer_of
from slimsweep.errors import DemoError, StoreError
from slimsweep.models.sources.base import ModelSource
from slimsweep.records.store import Store

COST = ("model=random", "evaluation=cost", "tracker=none")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


@pytest.fixture
def recorded(slimsweep):
    return lambda *words: record_at(slimsweep(*SMALL, *words))["key"]


def test_the_dense_model_stands_first_and_every_model_once(recorded, store):
    dense = recorded("technique=[]")
    kept = recorded("technique=magnitude", "ratio=0.5", "save_model=true")
    smaller = recorded("technique=glu", "ratio=0.25")
    lineup = Lineup.of(store, [kept[:8], smaller, dense, kept])
    shown = list(lineup.load())
    assert lineup.titles == [one.title for one in shown] == ["dense", "magnitude 0.5", "glu 0.25"]
    assert [one.key for one in shown] == [dense, kept, smaller] and lineup.model_name == "random"
    assert shown[0].weight_bytes == shown[1].weight_bytes > shown[2].weight_bytes
    for one in shown:
        assert one.weight_bytes == store.find(one.key)["weight_bytes"]
        assert one.memory_bytes is None or one.memory_bytes > one.weight_bytes


def test_a_dense_record_alone_is_shown_alone(recorded, store):
    assert Lineup.of(store, [recorded("technique=[]")]).titles == ["dense"]


def test_records_of_several_dense_models_are_refused_with_what_to_type(recorded, store, monkeypatch):
    first = recorded("technique=magnitude", "dtype=float32")
    other = recorded("technique=magnitude", "dtype=bfloat16", "device=cpu")
    monkeypatch.setattr(ModelSource, "load", None)  # loading would call it
    with pytest.raises(DemoError) as caught:
        Lineup.of(store, [first, other])
    said = str(caught.value)
    assert f"{first[:8]} of random dense in float32" in said and f"{other[:8]} of random dense in bfloat16" in said
    assert f"slim demo {first[:8]}; slim demo {other[:8]}" in said


def test_every_fault_of_every_key_is_told_at_once(recorded, store):
    key = recorded("technique=magnitude")
    with pytest.raises(DemoError) as caught:
        Lineup.of(store, ["0000", key, "zz"])
    assert "no record starts with '0000'" in str(caught.value) and "no record starts with 'zz'" in str(caught.value)


def test_a_model_that_writes_no_text_is_refused(store):
    classifier = record("magnitude", 0.5, config={"model": {"task": "sequence_classification"}})
    (one,) = sweep(store, "mine", [classifier])
    with pytest.raises(DemoError, match=r"writes no text \(model.task=sequence_classification\)"):
        writer_of(store, one["key"])


def test_shapes_without_weights_are_refused(slimsweep, store):
    key = record_at(slimsweep(*COST, "technique=magnitude", "model.weights=meta"))["key"]
    with pytest.raises(StoreError, match="model.weights=meta"):
        writer_of(store, key)


def test_a_model_is_put_beside_its_base(tiny):
    assert placed(tiny, torch.device("cpu")) is tiny
    moved = placed(tiny, torch.device("meta"))
    assert moved.compute_device.type == "meta" and next(moved.module.parameters()).is_meta
    assert moved.original_parameters == tiny.original_parameters
