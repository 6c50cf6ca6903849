"""slim compare and slim table --against base on records of real jobs of a small random model."""

import json

import pytest
from small_jobs import SMALL, record_at

FIELD = "perplexity_movie_reviews"


@pytest.fixture
def jobs(slimsweep):
    """Dense and magnitude at 0.5, each 4 windows, as the sweep `mine`."""
    words = [*SMALL, "evaluation.max_windows=4"]
    slimsweep("-m", *words, "technique=[],magnitude", "ratio=0.5", "sweep=mine")
    return [record_at(slimsweep(*words, f"technique={name}", "ratio=0.5")) for name in ("[]", "magnitude")]


def test_sweeps_keys_other_folders_and_bases_are_compared_item_by_item(slim, jobs, tmp_path):
    dense, pruned = jobs
    keys = slim("compare", dense["key"][:10], pruned["key"][:10], "--margin", "1000", "--holm")
    assert keys.exit_code == 0, keys.stderr
    assert "paired t over windows" in keys.stdout and "yes (±1000)" in keys.stdout and "p (Holm)" in keys.stdout
    (row,) = json.loads(slim("compare", dense["key"][:10], pruned["key"][:10], "--format", "json").stdout)
    (one,) = row["items"]
    assert one["items"] == 4 and one["field"] == FIELD and one["better"] + one["worse"] + one["same"] == 4
    assert one["difference"] == pytest.approx(pruned[FIELD] - dense[FIELD])
    base = slim("table", "mine", "--against", "base")
    assert base.exit_code == 0 and "magnitude 0.5" in base.stdout and base.stdout.count("perplexity movie_reviews") == 1
    (flat,) = json.loads(slim("table", "mine", "--against", "base", "--format", "json").stdout)
    assert flat["difference"] == one["difference"] and flat["key_a"] == dense["key"]
    itself = slim("compare", "mine", "--against", str(tmp_path / "outputs"), "--format", "json")
    flips = [(one["better"], one["worse"], one["same"]) for row in json.loads(itself.stdout) for one in row["items"]]
    assert flips == [(0, 0, 4), (0, 0, 4)]


def test_what_cannot_be_compared_is_told(slim, jobs, tmp_path):
    assert "give a second sweep or key" in slim("compare", "mine").stderr
    assert "it holds no records" in slim("compare", "mine", "--against", str(tmp_path / "none")).stderr
    assert "known: mine" in slim("compare", "mine", "nope").stderr


def test_other_protocols_are_refused(slim, slimsweep, jobs):
    other = record_at(slimsweep(*SMALL, "evaluation.max_windows=3", "technique=wanda", "ratio=0.5"))
    result = slim("compare", jobs[0]["key"][:12], other["key"][:12])
    assert result.exit_code == 1 and "windows=4" in result.stderr and "windows=3" in result.stderr
