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


def test_a_fault_of_verify_is_the_answer_and_no_traceback(tmp_path):
    file = tmp_path / "sample.safetensors"
    checking.write_sample(SAMPLE, file)
    request = {"format": "hf", "options": {}, "folder": str(tmp_path / "none"), "sample": str(file)}
    with pytest.raises(FileNotFoundError):  # no fault of a model: the new process ends with its traceback
        checking.answer(json.dumps(request))
