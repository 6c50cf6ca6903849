import json
from subprocess import CompletedProcess

import pytest
import torch

from slimsweep.errors import ExportError
from slimsweep.export import checking
from slimsweep.export.base import Sample
from slimsweep.export.hf import HuggingFace

SAMPLE = Sample({"input_ids": torch.tensor([[1, 2]])}, torch.zeros(1, 2, 4))


def process(monkeypatch, **fields):
    done = CompletedProcess([], **{"returncode": 0, "stdout": "", "stderr": "", **fields})
    monkeypatch.setattr(checking.subprocess, "run", lambda *arguments, **settings: done)


def test_the_last_line_of_the_new_process_is_the_answer(monkeypatch, tmp_path):
    process(monkeypatch, stdout='some library speaks\n{"lines": ["verified: all"], "error": ""}\n')
    assert checking.verified(HuggingFace(), tmp_path, SAMPLE) == ["verified: all"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stdout": '{"lines": [], "error": "other logits"}'}, "other logits"),
        ({"returncode": -9, "stderr": "x\nKilled"}, "status -9: Killed"),
        ({"returncode": 1}, "it wrote nothing"),
    ],
    ids=["refused", "killed", "silent"],
)
def test_no_good_answer_is_an_error(monkeypatch, tmp_path, fields, message):
    process(monkeypatch, **fields)
    with pytest.raises(ExportError, match=f"failed their check, and were removed: .*{message}"):
        checking.verified(HuggingFace(), tmp_path, SAMPLE)


def test_what_is_no_fault_of_a_model_ends_with_its_traceback(tmp_path):
    file = tmp_path / "sample.safetensors"
    checking.write_sample(SAMPLE, file)
    request = {"format": "hf", "options": {}, "folder": str(tmp_path / "none"), "sample": str(file)}
    with pytest.raises(FileNotFoundError):
        checking.answer(json.dumps(request))


def test_a_fault_of_verify_is_the_answer_and_no_traceback(monkeypatch, tmp_path):
    def fail(self, folder, sample):
        raise ExportError("other logits")

    monkeypatch.setattr(HuggingFace, "verify", fail)
    file = tmp_path / "sample.safetensors"
    checking.write_sample(SAMPLE, file)
    request = {"format": "hf", "options": {}, "folder": str(tmp_path), "sample": str(file)}
    assert checking.answer(json.dumps(request)) == {"lines": [], "error": "other logits"}


def test_a_check_that_never_ends_is_stopped_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(checking, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(ExportError, match="took longer than .* hours and was stopped"):
        checking.verified(HuggingFace(), tmp_path, SAMPLE)
