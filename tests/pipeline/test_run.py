"""What a job measures beside the dense model, and what it says of where it ran."""

import dataclasses

import torch
from stages import experiment

from slimsweep.evaluation.base import Measurement
from slimsweep.evaluation.speed import Speed
from slimsweep.pipeline import run
from slimsweep.pipeline.chain import compress


def test_room_for_the_dense_model_is_asked_for_in_the_dtype_it_is_loaded_in(tmp_path, monkeypatch):
    made = experiment(tmp_path, "technique=half", "technique.half.dtype=bfloat16", "dtype=float32", "cache=off")
    made = dataclasses.replace(made, metrics={"speed": Speed()})
    model = compress(made).model
    assert model.dtype == torch.bfloat16
    asked = []
    monkeypatch.setattr(run, "has_room", lambda *arguments: bool(asked.append(arguments)))
    result = run._compared(made, model, Speed(), Measurement())
    assert asked == [(model.original_parameters, torch.float32, torch.device("cpu"))]
    assert result.reasons["speedup_prefill"] == run.NO_ROOM


def test_versions_of_what_packs_weights_are_recorded():
    assert {"bitsandbytes", "compressed-tensors"} <= set(run.PACKAGES)
