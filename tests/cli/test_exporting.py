"""`slim export` and `slim show` from a record to files, as one types them."""

import json

import pytest
from conftest import CACHE, PROJECT
from made_up import record as made_up_record
from made_up import sweep
from small_jobs import SMALL, record_at

from slimsweep.cli.exporting import exported, matrix_text, shown
from slimsweep.errors import StoreError
from slimsweep.export import writing
from slimsweep.models.sources.base import ModelSource
from slimsweep.paths import OwnFolders
from slimsweep.pipeline.rebuild import Rebuild
from slimsweep.records.store import Store


@pytest.fixture
def here(monkeypatch):
    """Verify in this process: a new one takes seconds to import torch."""
    monkeypatch.setattr(writing, "verified", lambda format, folder, sample: format.verify(folder, sample))


def test_a_record_becomes_a_folder_that_a_new_process_has_loaded(slimsweep, slim, tmp_path):
    record = record_at(slimsweep(*SMALL, "technique=wanda", "ratio=0.3", "save_model=true"))
    folder = tmp_path / "out"
    answer = slim("export", record["key"][:8], "--to", "hf", "--output", folder)
    assert answer.exit_code == 0, answer.output
    verified, last = answer.stdout.strip().splitlines()[-2:]
    assert verified.startswith("verified: logits by plain transformers differ by 0 ") and last == str(folder)
    assert {"README.md", "record.json", "model.safetensors", "tokenizer.json"} <= {one.name for one in folder.iterdir()}
    shown = json.loads(slim("show", folder).stdout)
    assert shown["key"] == record["key"] and shown["export"]["format"] == "hf"
    again = slim("export", record["key"][:8], "--to", "hf", "--output", folder)
    assert again.exit_code == 1 and "is not an empty folder" in again.stderr


def test_a_saved_model_tells_which_run_made_it(slimsweep, slim, tmp_path):
    record = record_at(slimsweep(*SMALL, "technique=magnitude", "ratio=0.5", "save_model=true"))
    kept = tmp_path / "outputs" / "records" / record["key"][:16] / "model"
    assert json.loads(slim("show", kept).stdout) == record
    assert slim("save", record["key"], tmp_path / "saved").exit_code == 0
    assert json.loads(slim("show", tmp_path / "saved").stdout) == record


def test_a_model_that_was_not_kept_is_computed_again(slimsweep, slim, here, tmp_path):
    record = record_at(slimsweep(*SMALL, "technique=rtn", "technique.rtn.group_size=64"))
    answer = slim("export", record["key"], "--to", "compressed-tensors", "--output", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["format"]


def test_faults_are_told_before_weights_load_with_the_formats_that_work(slimsweep, slim, monkeypatch, tmp_path):
    record = record_at(slimsweep(*SMALL, "technique=nf4"))
    monkeypatch.setattr(ModelSource, "load", None)  # loading would call it
    answer = slim("export", record["key"], "--to", "compressed-tensors", "--output", tmp_path / "out")
    assert answer.exit_code == 1 and not (tmp_path / "out").exists()
    assert "stored as nf4" in answer.stderr and "Formats that can: hf" in answer.stderr


def test_bad_input_is_one_line_that_names_what_is_allowed(slimsweep, slim, tmp_path):
    key, folder = record_at(slimsweep(*SMALL, "technique=[]"))["key"], tmp_path / "out"
    cases = {
        ("export", key, "--to", "onx", "--output", folder): "Did you mean: onnx?",
        ("export", key, "bits=4", "--to", "hf", "--output", folder): "'bits=4' is no option of hf",
        ("export", key, "int8=maybe", "--to", "onnx", "--output", folder): "int8='maybe'",
        ("export", "0000", "--output", folder): "no record starts with '0000'",
        ("export", key): "--output FOLDER",
        ("show", tmp_path): "holds no record",
    }
    for words, message in cases.items():
        answer = slim(*words)
        assert answer.exit_code == 1 and message in answer.stderr, words
        assert len(answer.stderr.strip().splitlines()) == 1 and not folder.exists()


def test_files_that_compute_something_else_leave_no_folder(slimsweep, slim, here, monkeypatch, tmp_path):
    key = record_at(slimsweep(*SMALL, "technique=[]", "save_model=true"))["key"]
    monkeypatch.setattr("slimsweep.export.hf.TOLERANCE", -1.0)
    answer = slim("export", key, "--to", "hf", "--output", tmp_path / "out")
    assert answer.exit_code == 1 and "allowed is -1" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_kept_model_with_2_4_zeros_is_no_dense_model(slimsweep, slim, here, tmp_path):
    words = ("technique=magnitude", "ratio=0.5", "technique.magnitude.pattern=2:4", "save_model=true")
    record = record_at(slimsweep(*SMALL, *words))
    answer = slim("export", record["key"], "--to", "compressed-tensors", "--output", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    assert "sparsity_config" in json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]


@pytest.mark.slow
def test_the_page_holds_the_matrix_of_today():
    page = (PROJECT / "docs" / "export.md").read_text(encoding="utf-8")
    table = page.partition("<!-- matrix -->\n")[2].partition("<!-- end of matrix -->")[0]
    assert table.strip() == matrix_text(CACHE), "print it with: slim export --matrix"


def test_a_key_is_looked_for_before_a_folder_of_its_name(tmp_path, monkeypatch):
    store = Store(tmp_path / "outputs")
    (made,) = sweep(store, "mine", [made_up_record()])
    prefix = made["key"][:6]
    monkeypatch.chdir(tmp_path)
    for name in (prefix, "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps({"key": "other"}))
    assert shown(store, prefix)["key"] == made["key"]
    assert shown(store, f"./{prefix}") == shown(store, "mine") == {"key": "other"}
    with pytest.raises(StoreError, match="no record starts with 'none'"):
        shown(store, "none")


def test_calibration_that_cannot_be_drawn_is_a_fault_before_the_model_is_made(tmp_path, monkeypatch):
    def fail(self):
        raise StoreError("no such text")

    store = Store(tmp_path / "outputs")
    (made,) = sweep(store, "mine", [made_up_record()])
    monkeypatch.setattr("slimsweep.export.formats.refuse", lambda format, model: None)
    monkeypatch.setattr(Rebuild, "skeleton", lambda self: None)
    monkeypatch.setattr(Rebuild, "model", None)  # making it would call this
    monkeypatch.setattr(Rebuild, "calibration", fail)
    with pytest.raises(StoreError, match="no such text"):
        list(exported(store, made["key"], ("gguf", ["type=Q4_K_M", "importance=true"]), tmp_path / "out", OwnFolders()))
