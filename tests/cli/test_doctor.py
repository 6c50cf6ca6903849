"""`slim doctor` through the real command."""

import json

from slimsweep.cli import doctor as doctor_module


def test_doctor_tells_what_is_there_for_people_and_for_scripts(slim, tmp_path):
    (tmp_path / "data" / "ptb").mkdir(parents=True)
    (tmp_path / "data" / "ptb" / "ptb.valid.txt").write_text("a line\n")
    answer = slim("doctor", "--format", "json", "--data-dir", str(tmp_path / "data"))
    found = {one["topic"]: one for one in json.loads(answer.stdout)}
    assert {"slimsweep", "packages", "processor", "GPU", "bf16", "bitsandbytes", "W&B mode", "disk"} <= set(found)
    assert "torch" in found["packages"]["text"] and "model smollm2_135m" in found
    assert "ptb_valid" in found["data"]["text"] and "prepared: none" in found["datasets"]["text"]
    text = slim("doctor").stdout
    assert text.splitlines()[0].startswith("ok") and "W&B mode" in text


def test_a_look_that_fails_is_a_problem_and_the_others_go_on(slim, monkeypatch):
    def broken():
        raise RuntimeError("a broken package")

    monkeypatch.setattr(doctor_module, "_bitsandbytes", broken)
    answer = slim("doctor")
    assert answer.exit_code == 1 and "RuntimeError: a broken package" in answer.stdout and "disk" in answer.stdout


def test_a_folder_of_data_that_is_not_there_is_a_problem(slim, tmp_path):
    answer = slim("doctor", "--data-dir", str(tmp_path / "nowhere"))
    assert answer.exit_code == 1 and "nowhere is no folder" in answer.stdout
