import json
import math

import pytest

from slimsweep.errors import StoreError
from slimsweep.records.record import FIELDS, assembled, ordered, results, write_json


def test_every_field_is_there_and_every_null_has_a_reason():
    record = ordered({"key": "k", "perplexity_x": 3.0, "ratio": None}, {"ratio": "no stage has a ratio"})
    assert set(FIELDS) | {"perplexity_x"} == set(record)
    nulls = {name for name, value in record.items() if value is None and name != "reasons"}
    assert set(record["reasons"]) == nulls
    assert record["reasons"]["ratio"] == "no stage has a ratio"


def test_reasons_of_fields_with_values_are_dropped():
    assert "ratio" not in ordered({"ratio": 0.5}, {"ratio": "no stage has a ratio"})["reasons"]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_numbers_become_null_with_the_reason(value):
    record = ordered({"perplexity_x": value}, {})
    assert record["perplexity_x"] is None
    assert str(value) in record["reasons"]["perplexity_x"]
    json.dumps(record, allow_nan=False)


def test_a_measured_reason_wins_over_the_generic_one():
    record = ordered({"perplexity_x": math.inf}, {"perplexity_x": "perplexity overflowed: mean NLL 812.3"})
    assert record["reasons"]["perplexity_x"] == "perplexity overflowed: mean NLL 812.3"


def test_writing_replaces_whole_files_and_leaves_no_parts(tmp_path):
    path = tmp_path / "a" / "record.json"
    write_json(path, {"x": 1})
    write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 2}
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_full_disk_names_the_remedy_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"x": 1})

    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(StoreError, match="No space left on device.*outputs_dir"):
        write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_two_runs_of_a_key_may_differ_in_times_and_in_what_was_restored():
    one = {"key": "k", "sparsity": 0.5, "compress_seconds": 3.0, "compress_spent_seconds": 3.0, "load_seconds": 1.0}
    one |= {"stages": [{"name": "wanda", "zeros": 4, "seconds": 3.0, "restored": False}]}
    other = one | {"compress_spent_seconds": 0.1, "load_seconds": 0.1}
    other |= {"stages": [{"name": "wanda", "zeros": 4, "seconds": 2.0, "restored": True}]}
    assert results(one) == results(other)
    assert results(one) != results(other | {"sparsity": 0.4})
    assert results(one) != results(other | {"stages": [other["stages"][0] | {"zeros": 5}]})


def test_qualities_before_training_stand_beside_those_after_it():
    def one(field, value, group):
        declared = {"field": field, "label": field, "group": group, "scale": "log"}
        return {
            "identity": field,
            "metric": {"fields": {}, "package": "p", "name": "n", "version": 1, "digests": {}},
            "values": {field: value},
            "reasons": {},
            "protocols": {field: "text"},
            "quantities": {field: declared},
            "seconds": 1.0,
            "source": None,
        }

    after = [one("perplexity_x", 8.0, "quality"), one("parameters", 5, "cost")]
    before = [one("perplexity_x", 12.0, "quality"), one("parameters", 9, "cost")]
    record = assembled({"reasons": {}}, after, before)
    assert (record["perplexity_x"], record["perplexity_x_before"]) == (8.0, 12.0)
    assert "parameters_before" not in record and record["protocols"]["perplexity_x_before"] == "text"
    assert record["quantities"]["perplexity_x_before"]["group"] == "cost"
    assert "perplexity_x_before" not in assembled({"reasons": {}}, after)
