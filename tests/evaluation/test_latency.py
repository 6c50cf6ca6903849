import pytest
import torch
from small_classifier import small_classifier
from small_pairs import seq2seq

from slimsweep.evaluation import latency
from slimsweep.evaluation.latency import Latency

CPU = torch.device("cpu")


def test_a_classifier_runs_one_forward_an_example(tmp_path):
    model, shapes = small_classifier(tmp_path).load(torch.float32, CPU), []
    model.module.register_forward_pre_hook(
        lambda _, args, fields: shapes.append(tuple(fields["input_ids"].shape)), with_kwargs=True
    )
    measurement = Latency(tokens=7, repeats=3, warm_ups=2).measure(model, None)
    assert shapes == [(1, 7)] * 5
    assert measurement.values["latency_seconds"] > 0
    assert measurement.protocols["latency_seconds"] == "latency:1x7:median of 3 after 2"


def test_a_model_that_generates_writes_all_its_tokens(tmp_path, tiny):
    steps = []
    tiny.module.register_forward_pre_hook(lambda *given: steps.append(1), with_kwargs=True)
    measurement = Latency(tokens=5, new_tokens=4, repeats=1, warm_ups=1).measure(tiny, None)
    assert len(steps) == 2 * (1 + 4)
    assert measurement.protocols["latency_seconds"] == "latency:1x5+4:median of 1 after 1"
    model = seq2seq("t5", tmp_path).load(torch.float32, CPU)
    assert Latency(tokens=5, new_tokens=4, repeats=1).measure(model, None).values["latency_seconds"] > 0


def test_the_median_is_that_of_the_repeats_after_the_warm_ups(tiny, monkeypatch):
    seconds = iter([(9.0, 9.0), (9.0, 9.0), (1.0, 0.5), (0.1, 0.2), (3.0, 0.0)])
    monkeypatch.setattr(latency, "timed_run", lambda *_: next(seconds))
    assert Latency(repeats=3, warm_ups=2).measure(tiny, None).values == {"latency_seconds": 1.5}


def test_examples_longer_than_the_model_takes_are_a_fault(tiny_source, tmp_path):
    assert Latency().faults(tiny_source, None) == []
    assert "takes 128" in Latency(tokens=120, new_tokens=9).faults(tiny_source, None)[0]
    assert "takes 40" in Latency(tokens=8, new_tokens=40).faults(seq2seq("bart", tmp_path), None)[0]


def test_wrong_settings_are_told_together():
    with pytest.raises(ValueError, match="latency.tokens=0.*latency.repeats=0"):
        Latency(tokens=0, repeats=0)
