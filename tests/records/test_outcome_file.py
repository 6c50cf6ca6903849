import json

import numpy as np
import pytest

from slimsweep.errors import StoreError
from slimsweep.evaluation.base import Measurement
from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.records import outcome_file
from slimsweep.records.record import measurement
from slimsweep.records.store import Store

KEY, IDENTITY = "ab" * 32, "cd" * 32
RIGHT = Outcomes(np.array([1, 0, 1], dtype=np.uint8), "mean", "questions")
NLL = Outcomes(np.array([[1.5, 3.0], [2.5, 3.0]]), "exp_mean", "windows")


def kept(store, outcomes, identity=IDENTITY):
    result = Measurement({"accuracy_a": 2 / 3}, outcomes=outcomes)
    store.keep(KEY, measurement("accuracy", identity, {"fields": {}}, result, 1.0, "now"))
    return {"key": KEY, "identities": {"accuracy_a": identity, "accuracy_stderr_a": identity}}


def test_outcomes_come_back_as_they_were_without_pickles(tmp_path):
    path = tmp_path / "one.npz"
    outcome_file.write(path, {"accuracy_a": RIGHT, "perplexity_b": NLL})
    found = outcome_file.read(path, outcome_file.described({"accuracy_a": RIGHT, "perplexity_b": NLL}))
    assert found["accuracy_a"].values.tolist() == [1, 0, 1] and found["accuracy_a"].values.dtype == np.uint8
    assert found["perplexity_b"].values.tolist() == NLL.values.tolist()
    assert (found["perplexity_b"].aggregate, found["perplexity_b"].items) == ("exp_mean", "windows")


def test_a_store_gives_them_by_field_of_the_record(tmp_path):
    store = Store(tmp_path)
    record = kept(store, {"accuracy_a": RIGHT})
    (file,) = (store.folder(KEY) / "measurements").glob("*.json")
    assert json.loads(file.read_text())["outcomes"] == {"accuracy_a": {"aggregate": "mean", "items": "questions"}}
    found = store.outcomes(record)
    assert list(found) == ["accuracy_a"] and found["accuracy_a"].score() == pytest.approx(2 / 3)
    labelled = {"key": KEY, "identities": {"accuracy_a[task_limit=3]": IDENTITY}}
    assert list(store.outcomes(labelled)) == ["accuracy_a[task_limit=3]"]


def test_records_of_older_versions_have_none(tmp_path):
    store = Store(tmp_path)
    record = kept(store, {})
    assert store.outcomes(record) == {} and store.outcomes({"key": KEY}) == {}
    (file,) = (store.folder(KEY) / "measurements").glob("*")
    older = json.loads(file.read_text())
    del older["outcomes"]
    file.write_text(json.dumps(older))
    assert store.outcomes(record) == {} and store.measured(KEY)[IDENTITY] == older


def test_a_damaged_file_is_named_with_what_to_do(tmp_path):
    store = Store(tmp_path)
    record = kept(store, {"accuracy_a": RIGHT})
    (path,) = (store.folder(KEY) / "measurements").glob("*.npz")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(StoreError, match=r"npz is damaged .*: remove it and .*json, and run again"):
        store.outcomes(record)
