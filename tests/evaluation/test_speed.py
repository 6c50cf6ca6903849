import itertools

import pytest
import torch
from family_shapes import DECODERS, random_model

from slimsweep.evaluation import speed
from slimsweep.evaluation.speed import Speed

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_family_reads_and_generates(family, tmp_path):
    model = random_model(family, str(tmp_path)).load(torch.float32, CPU)
    measurement = Speed(prompt_tokens=16, new_tokens=4, repeats=1).measure(model, None)
    assert all(value > 0 for value in measurement.values.values())
    assert measurement.reasons == {}
    assert measurement.protocols["decode_tokens_per_second"] == "decode:4 tokens after 1x16:median of 1"


def test_decoding_feeds_one_token_at_a_time_from_the_cache(tiny):
    lengths = []
    tiny.module.base_model.register_forward_pre_hook(
        lambda _, args, fields: lengths.append(fields["input_ids"].shape[1]), with_kwargs=True
    )
    Speed(prompt_tokens=16, new_tokens=3, repeats=2).measure(tiny, None)
    assert lengths == [16, 1, 1, 1] * 3  # the warm-up and two repeats


def test_the_median_of_the_repeats_counts_and_the_warm_up_does_not(tiny, monkeypatch):
    # Four runs of (start, prefilled, end): prefills of 100 (warm-up), 1, 9, 2 seconds, decodes of 50, 4, 2, 8.
    steps = itertools.chain((0, 100, 50), (0, 1, 4), (0, 9, 2), (0, 2, 8))
    clock = itertools.accumulate(steps)
    monkeypatch.setattr(speed, "_now", lambda model: float(next(clock)))
    measurement = Speed(prompt_tokens=4, new_tokens=8, repeats=3).measure(tiny, None)
    assert measurement.values == {"prefill_seconds": 2.0, "decode_tokens_per_second": 2.0}


def test_a_classifier_reads_but_does_not_generate(tmp_path):
    model = random_model("bert", str(tmp_path)).load(torch.float32, CPU)
    measurement = Speed(prompt_tokens=16, repeats=1).measure(model, None)
    assert measurement.values["prefill_seconds"] > 0
    assert measurement.values["decode_tokens_per_second"] is None
    assert "does not generate" in measurement.reasons["decode_tokens_per_second"]


def test_more_tokens_than_the_model_takes_is_a_fault(tiny_source):
    (fault,) = Speed(prompt_tokens=120, new_tokens=16).faults(tiny_source, None)
    assert "this model takes 128 together" in fault
    assert Speed(prompt_tokens=112, new_tokens=16).faults(tiny_source, None) == []


def test_weights_in_a_file_have_no_speed(tiny, tmp_path):
    from slimsweep.models.placement.scratch import Scratch

    tiny.scratch = Scratch(tmp_path, 4096)
    found = Speed(prompt_tokens=4, new_tokens=2, repeats=1).measure(tiny, None)
    assert set(found.values.values()) == {None}
    assert "memory_budget" in found.reasons["prefill_seconds"]


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="evaluation.repeats=0"):
        Speed(repeats=0)


@pytest.mark.gpu
def test_a_gpu_is_waited_for(stories260k_source):
    model = stories260k_source.load(torch.float32, torch.device("cuda:0"))
    assert all(value > 0 for value in Speed().measure(model, None).values.values())
