import json
from pathlib import Path

from small_jobs import SMALL, record_at

from slimsweep.records.record import FIELDS, results
from slimsweep.records.store import Store


def test_a_job_leaves_one_record_whose_path_it_prints_last(slimsweep, tmp_path):
    record = record_at(slimsweep(*SMALL, "technique=wanda", "ratio=0.5"))
    assert set(FIELDS) <= set(record)
    assert record["technique"] == "wanda" and record["ratio"] == 0.5 and record["sparsity"] == 0.5
    assert record["perplexity_movie_reviews"] > 1 and record["protocols"]["perplexity_movie_reviews"]
    assert {name for name, value in record.items() if value is None} == set(record["reasons"])
    assert record["speedup_prefill"] is None
    layers = json.loads((Store(tmp_path / "outputs").folder(record["key"]) / "layers.json").read_text())
    assert sum(layer["zeros"] for layer in layers[0]["layers"]) == record["stages"][0]["zeros"]
    assert all(layer["zeros"] * 2 == layer["weights"] for layer in layers[0]["layers"])


def test_a_recorded_experiment_is_found_not_computed(slimsweep):
    first = slimsweep(*SMALL, "technique=magnitude")
    path = Path(first.out.strip().splitlines()[-1])
    before = path.stat().st_mtime_ns
    second = slimsweep(*SMALL, "technique=magnitude")
    assert "already recorded" in second.out and path.stat().st_mtime_ns == before


def test_two_runs_of_one_key_agree_in_every_result_field(slimsweep, tmp_path):
    first = record_at(slimsweep(*SMALL, "technique=sparsegpt"))
    other = record_at(slimsweep(*SMALL, "technique=sparsegpt", f"outputs_dir={tmp_path}/again"))
    assert results(first) == results(other)
