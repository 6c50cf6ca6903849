"""Jobs that measure fidelity: the base is scored once, and perplexity's forward is read."""

import json
from pathlib import Path

import pytest
from small_jobs import SMALL, record_at

from slimsweep.records.store import Store

FIELD = "kl_movie_reviews"


def test_one_forward_gives_both_and_the_base_is_loaded_once(slimsweep, tmp_path):
    words = (*SMALL, "+metric=fidelity", f"cache_dir={tmp_path}/cache", "ratio=0.5")
    pruned = slimsweep(*words, "technique=magnitude")
    assert "perplexity, fidelity: measuring" in log_of(pruned) and "loading the base" in log_of(pruned)
    dense = slimsweep(*words, "technique=[]")
    assert "loading the base" not in log_of(dense)
    record, base = record_at(pruned), record_at(dense)
    assert record["base_key"] == base["key"]
    assert record[FIELD] > 1e-6
    assert base[FIELD] < 1e-8 and base["top_agreement_movie_reviews"] == 1
    assert base["perplexity_change_movie_reviews"] == pytest.approx(0, abs=1e-4)
    change = record["perplexity_movie_reviews"] - base["perplexity_movie_reviews"]
    assert record["perplexity_change_movie_reviews"] == pytest.approx(change, abs=1e-4)
    assert record["protocols"][FIELD] == f"{record['protocols']['perplexity_movie_reviews']}:all tokens"


def test_asked_for_later_it_measures_the_same_and_nothing_else(slimsweep, tmp_path):
    words = (*SMALL, f"cache_dir={tmp_path}/cache", "ratio=0.5", "technique=magnitude")
    together = record_at(slimsweep(*words, "+metric=fidelity", f"outputs_dir={tmp_path}/together"))
    first = record_at(slimsweep(*words))
    later = slimsweep(*words, "+metric=fidelity")
    record = record_at(later)
    assert ": only fidelity" in log_of(later)
    assert record[FIELD] == together[FIELD] and record["perplexity_movie_reviews"] == first["perplexity_movie_reviews"]
    store = Store(tmp_path / "outputs")
    fields = {"kl_movie_reviews", "top_agreement_movie_reviews", "perplexity_movie_reviews"}
    assert fields <= set(store.outcomes(record))
    measured = store.measured(record["key"])[record["identities"][FIELD]]
    assert json.loads(json.dumps(measured)) == measured and measured["name"] == "fidelity"


def log_of(answer) -> str:
    return (Path(answer.out.strip().splitlines()[-1]).parent / "job.log").read_text()
