"""`slim export --measure` from a record to the record of its files."""

import json

import pytest
from small_jobs import SMALL, record_at
from typer.testing import CliRunner

from slimsweep.cli.slim import app
from slimsweep.errors import MetricError
from slimsweep.evaluation.accuracy import Accuracy
from slimsweep.evaluation.perplexity import Perplexity
from slimsweep.export import writing
from slimsweep.models.sources.base import ModelSource
from slimsweep.records.exported import exports_store, holder_of, stale_exports, with_exports
from slimsweep.records.store import Store


@pytest.fixture
def slim(tmp_path, monkeypatch):
    """The command, which verifies in this process: a new one takes seconds to import torch."""
    monkeypatch.setattr(writing, "verified", lambda format, folder, sample: [])
    return lambda *words: CliRunner().invoke(app, [*map(str, words), "--outputs", str(tmp_path / "outputs")])


def files_of(tmp_path, key):
    return exports_store(Store(tmp_path / "outputs"), key).records()


def test_files_are_measured_by_the_protocol_of_their_record(slimsweep, slim, tmp_path):
    words = (
        "dtype=float32",
        "technique=wanda",
        "ratio=0.3",
        "model.shape.hidden_size=64",
        "model.shape.intermediate_size=96",
    )
    record = record_at(slimsweep(*SMALL, *words))
    for type in ("F32", "Q4_0"):
        answer = slim("export", record["key"], f"type={type}", "--to", "gguf", "--measure")
        assert answer.exit_code == 0, answer.output
        assert "no file was kept" in answer.stdout and "| perplexity movie_reviews |" in answer.stdout
    by_type = {one["export"]["options"]["type"]: one for one in files_of(tmp_path, record["key"])}
    exact, rounded = by_type["F32"], by_type["Q4_0"]
    field = "perplexity_movie_reviews"
    assert exact[field] == record[field] != rounded[field]
    assert (
        exact["protocols"] == rounded["protocols"] == {name: record["protocols"][name] for name in exact["protocols"]}
    )
    assert exact["identities"][field] == record["identities"][field]
    assert exact["weight_bytes"] == record["weight_bytes"] > 4 * rounded["weight_bytes"]
    assert exact["checkpoint_bytes"] > exact["weight_bytes"]
    assert rounded["technique"] == "wanda+gguf type=Q4_0" and rounded["export"]["words"] == ["type=Q4_0"]
    assert rounded["base_key"] == record["base_key"] and rounded["weights_digest"] is None
    store = Store(tmp_path / "outputs")
    outcomes = [holder_of(store, one).outcomes(one)[field] for one in (record, exact)]
    assert outcomes[0].items == outcomes[1].items and (outcomes[0].rows == outcomes[1].rows).all()
    assert [one["key"] for one in store.records()] == [record["key"]]
    rows = [line for line in slim("table", "--files").stdout.splitlines() if line.startswith(f"| {record['key'][:8]} ")]
    assert ["wanda+gguf" in row for row in rows] == [False, True, True]
    assert [row.count("type=") for row in rows] == [0, 1, 1]


def test_files_are_kept_where_a_folder_is_given(slimsweep, slim, tmp_path):
    record = record_at(slimsweep(*SMALL, "technique=[]", "save_model=true"))
    answer = slim("export", record["key"], "--to", "hf", "--output", tmp_path / "out", "--measure")
    assert answer.exit_code == 0, answer.output
    assert (
        answer.stdout.strip().splitlines()[-1] == str(tmp_path / "out") and (tmp_path / "out" / "config.json").is_file()
    )
    (files,) = files_of(tmp_path, record["key"])
    assert files["technique"] == "hf" and files["weight_bytes"] == record["weight_bytes"]
    assert json.loads(slim("show", tmp_path / "out").stdout)["key"] == record["key"]


def test_a_record_without_quality_is_refused_before_weights_load(slimsweep, slim, monkeypatch, tmp_path):
    record = record_at(slimsweep("model=random", "technique=[]", "evaluation=cost", "tracker=none", "cache=off"))
    monkeypatch.setattr(ModelSource, "load", None)  # loading would call it
    answer = slim("export", record["key"], "--to", "hf", "--measure")
    assert answer.exit_code == 1 and "shows no quality" in answer.stderr and "slim amend SWEEP" in answer.stderr
    assert files_of(tmp_path, record["key"]) == []


def test_what_a_later_launch_measured_is_measured_on_the_files(slimsweep, slim, tmp_path):
    first = ("model=random", "technique=[]", "tracker=none", "cache=off")
    slimsweep(*first, "evaluation=cost")
    key = record_at(slimsweep(*SMALL, "technique=[]"))["key"]
    assert slim("export", key, "--to", "hf", "--measure").exit_code == 0
    windows = [word for word in SMALL if "max_windows" not in word]
    record = record_at(slimsweep(*windows, "technique=[]", "evaluation.max_windows=3"))
    store = Store(tmp_path / "outputs")
    (stale,) = stale_exports(store, [record])
    assert with_exports(store, [record]) == [record] and stale["key"] == files_of(tmp_path, key)[0]["key"]
    answer = slim("export", key, "--to", "hf", "--measure")
    assert answer.exit_code == 0 and not stale_exports(store, [record])
    (files,) = files_of(tmp_path, key)
    assert files["protocols"] == {name: record["protocols"][name] for name in files["protocols"]}
    assert json.loads(slim("show", files["key"]).stdout)["key"] == files["key"]


OWN_METRIC = """# @package evaluation.metrics.own_score
_target_: own_score.OwnScore
corpora: [movie_reviews]
context_tokens: 64
max_windows: 2
batch_tokens: null
"""


def test_a_metric_of_a_folder_of_ones_own_is_measured_on_the_files(slimsweep, slim, tmp_path, monkeypatch):
    (tmp_path / "conf" / "metric").mkdir(parents=True)
    (tmp_path / "conf" / "metric" / "own_score.yaml").write_text(OWN_METRIC)
    code = "from slimsweep.evaluation.perplexity import Perplexity\n\n\nclass OwnScore(Perplexity):\n    pass\n"
    (tmp_path / "own_score.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("--config-dir", str(tmp_path / "conf"))
    first = ("model=random", "technique=[]", "tracker=none", "cache=off", "evaluation=cost")
    slimsweep(*first)
    record = record_at(slimsweep(*own, *first, "+metric=own_score"))
    answer = slim("export", record["key"], "--to", "hf", "--measure", *own)
    assert answer.exit_code == 0, answer.output
    (files,) = files_of(tmp_path, record["key"])
    assert files["perplexity_movie_reviews"] == record["perplexity_movie_reviews"]
    refused = slim("export", record["key"], "--to", "hf", "--measure")
    assert refused.exit_code == 1 and "shows no quality" in refused.stderr


def test_a_metric_that_fails_on_files_costs_no_other(slimsweep, slim, monkeypatch, tmp_path):
    words = ("evaluation.tasks=[sentiment]", "evaluation.task_limit=2")
    record = record_at(
        slimsweep(*[word for word in SMALL if "tasks" not in word], "technique=[]", "save_model=true", *words)
    )

    def fail(self, *_):
        raise MetricError("no room")

    monkeypatch.setattr(Accuracy, "measure", fail)
    answer = slim("export", record["key"], "--to", "hf", "--measure")
    assert answer.exit_code == 0 and "not measured: accuracy: no room" in answer.stdout
    (files,) = files_of(tmp_path, record["key"])
    assert files["perplexity_movie_reviews"] == record["perplexity_movie_reviews"]
    monkeypatch.setattr(Perplexity, "measure", fail)
    answer = slim("export", record["key"], "--to", "onnx", "--measure")
    assert answer.exit_code == 1 and "no quality could be measured" in answer.stderr
    assert len(files_of(tmp_path, record["key"])) == 1
