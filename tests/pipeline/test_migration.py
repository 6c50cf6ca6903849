"""Records that a version made whose keys held module paths and the evaluation (former_records.json)."""

import copy
import json
from pathlib import Path

import pytest
import torch

from slimsweep.models.storage.saved_model import load
from slimsweep.pipeline.migration import migrate, todays
from slimsweep.pipeline.rebuild import save
from slimsweep.records.record import write_json
from slimsweep.records.store import Store, SweepJob
from slimsweep.records.tracking.wandb import Wandb

FORMER = json.loads((Path(__file__).parents[1] / "support" / "former_records.json").read_text())
KEEPS = (
    "technique",
    "ratio",
    "parameters",
    "nonzero_parameters",
    "sparsity",
    "gmacs",
    "weight_bytes",
    "weights_digest",
)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "outputs")
    for record in copy.deepcopy(FORMER["records"]):
        write_json(store.folder(record["key"]) / "record.json", record)
    store.open_sweep("old", [SweepJob(**job) for job in FORMER["jobs"]])
    store.close_sweep("old", store.sweep_jobs("old"))
    return store


def test_records_get_new_keys_once_and_keep_their_results(store):
    done = migrate(store)
    assert len(done.keys) == 3 and done.left == {}
    before = {record["key"]: record for record in FORMER["records"]}
    for record in store.records():
        old = before[record["previous_key"]]
        assert record["key"] != old["key"] and all(record[name] == old[name] for name in KEEPS)
        assert record["base_key"] == next(one["key"] for one in store.records() if one["technique"] == "dense")
        assert "_target_" not in json.dumps(record) and record["choices"]["model"] == "random"
    assert len(list(store.records_dir.iterdir())) == 3
    assert migrate(store).keys == {}


def test_a_sweep_finds_its_records_under_the_new_keys(store):
    migrate(store)
    assert [job.state for job in store.status("old")] == ["done"] * 3
    assert [record["technique"] for record in store.sweep_records("old")] == ["dense", "magnitude", "glu+rtn"]
    assert (store.sweeps_dir / "old" / ".complete").is_file()


def test_a_migrated_record_gives_its_model_again(store, tmp_path):
    migrate(store)
    record = next(record for record in store.records() if record["technique"] == "glu+rtn")
    save(store, record, tmp_path / "saved")
    module = load(tmp_path / "saved", torch.float32)
    weights = sum(layer.weight.numel() for name, layer in module.named_modules() if name.endswith("_proj"))
    assert weights == sum(layer["weights"] for layer in [record["stages"][1]])


def test_a_migrated_record_stays_the_run_it_was(store, monkeypatch):
    sent = []
    monkeypatch.setattr(Wandb, "_send", lambda self, identity, fill, folder: sent.append(identity["id"]) or True)
    migrate(store)
    for record in store.records():
        Wandb(mode="offline").publish(record, [], store.outputs_dir)
    assert sorted(sent) == sorted(record["key"][:16] for record in FORMER["records"])


def test_knobs_get_todays_words(store):
    record = copy.deepcopy(next(one for one in FORMER["records"] if one["technique"] == "magnitude"))
    assert record["config"]["technique"]["magnitude"]["of"] == "original"
    now = todays(record)
    assert now["config"]["technique"]["magnitude"]["relative_to"] == "original"
    assert now["stages"][0]["fields"]["relative_to"] == "original"


def test_a_record_whose_model_is_not_there_any_more_is_left_and_named(store):
    (key,) = (record["key"] for record in FORMER["records"] if record["technique"] == "magnitude")
    record = store.read(key)
    record["config"]["technique"]["magnitude"]["_target_"] = "gone.techniques.nowhere.Nowhere"
    record["stages"][0]["technique"] = "nowhere"
    write_json(store.folder(key) / "record.json", record)
    done = migrate(store)
    assert len(done.keys) == 2 and "technique=nowhere of this record is not among the choices" in done.left[key]
    assert store.read(key)["key"] == key


def test_an_interrupted_migration_goes_on_and_the_sweep_loses_nothing(store, monkeypatch):
    from slimsweep.pipeline import migration

    monkeypatch.setattr(migration, "_renew_sweeps", lambda store: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        migrate(store)
    monkeypatch.undo()
    migrate(store)
    assert [job.state for job in store.status("old")] == ["done"] * 3
    before = [job.measurements for job in store.sweep_jobs("old")]
    migrate(store)
    assert [job.measurements for job in store.sweep_jobs("old")] == before and all(before)


def test_knobs_that_decided_nothing_are_left_out(store):
    fields = {"ratio": 0.5, "of": "original", "bits": None, "group_size": None, "grid": "asymmetric"}
    record = copy.deepcopy(next(one for one in FORMER["records"] if one["technique"] == "magnitude"))
    record["config"]["technique"] = {"sparsegpt": fields | {"_target_": "slimsweep.techniques.sparsegpt.SparseGPT"}}
    record["stages"][0] |= {"name": "sparsegpt", "technique": "sparsegpt", "fields": fields}
    assert todays(record)["config"]["technique"]["sparsegpt"] == {"ratio": 0.5, "relative_to": "original", "bits": None}
