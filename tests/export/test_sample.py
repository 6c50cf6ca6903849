import pytest
import torch
from family_shapes import random_model

from slimsweep.errors import ExportError
from slimsweep.export.base import Sample
from slimsweep.export.sample import compared, in_fp32, read_sample, relative_difference, sample_of, write_sample

LOGITS = torch.tensor([[[1.0, -1.0, 0.0]]])  # norm about the mean: root of 2


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_every_task_has_a_sample_that_survives_a_file(tmp_path, name):
    model = random_model(name, str(tmp_path)).load(torch.float32, torch.device("cpu"))
    sample = sample_of(model)
    write_sample(sample, tmp_path / "sample.safetensors")
    again = read_sample(tmp_path / "sample.safetensors")
    assert torch.equal(again.logits, sample.logits) and again.batch.keys() == sample.batch.keys()
    assert ("decoder_input_ids" in sample.batch) == (name == "t5")


def test_logits_are_those_of_fp32_whatever_the_dtype(tiny_source):
    model = tiny_source.load(torch.bfloat16, torch.device("cpu"))
    wide = in_fp32(model)
    assert model.dtype == torch.bfloat16 and wide.dtype == torch.float32
    with torch.no_grad():
        logits = wide.module(sample_of(model).batch["input_ids"]).logits
    assert torch.equal(logits, sample_of(model).logits)


def test_a_difference_is_relative_and_a_constant_is_none():
    sample = Sample({}, LOGITS)
    assert relative_difference(LOGITS + 5, sample) == pytest.approx(0, abs=1e-6)
    assert relative_difference(2 * LOGITS, sample) == pytest.approx(1)
    with pytest.raises(ExportError, match=r"shape \[1, 1, 2\] instead of \[1, 1, 3\]"):
        relative_difference(LOGITS[..., :2], sample)
    with pytest.raises(ExportError, match="NaN"):
        relative_difference(LOGITS * float("nan"), sample)


def test_more_than_the_tolerance_is_an_error():
    assert compared(1.01 * LOGITS, Sample({}, LOGITS), 0.02, "x").startswith("verified: logits by x differ by 0.01 ")
    with pytest.raises(ExportError, match="allowed is 0.001"):
        compared(1.01 * LOGITS, Sample({}, LOGITS), 0.001, "x")
