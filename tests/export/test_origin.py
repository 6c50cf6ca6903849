import json

import pytest

from slimsweep.errors import ExportError
from slimsweep.export.base import RECORD_KEY
from slimsweep.export.origin import record_at

RECORD = {"key": "a" * 64, "technique": "wanda"}


def test_the_record_lies_beside_the_weights(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert record_at(tmp_path) == record_at(tmp_path / "model.safetensors") == RECORD


def test_a_gguf_file_holds_it_wherever_it_is_moved(tmp_path):
    from gguf import GGUFWriter

    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_string(RECORD_KEY, json.dumps(RECORD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert record_at(file) == record_at(tmp_path) == RECORD


def test_where_there_is_none_the_error_says_what_was_looked_for(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"nothing of the kind")
    for place, message in ((tmp_path, "damaged, or no GGUF"), (tmp_path / "other.bin", "holds no record")):
        with pytest.raises(ExportError, match=message):
            record_at(place)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(ExportError, match="is damaged"):
        record_at(tmp_path / "other.bin")


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx"])
def test_a_file_with_metadata_does_not_answer_by_the_record_beside_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr("slimsweep.export.origin._metadata", lambda file: None)
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ExportError, match=f"{name} holds no record: its metadata has no key"):
        record_at(tmp_path / name)
    assert record_at(tmp_path) == RECORD
