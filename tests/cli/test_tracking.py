"""The commands of docs/tracking.md: several trackers, alerts of failed jobs, and records that are sent again."""

import importlib.util
import json
import sqlite3

import pytest
from conftest import PROJECT
from small_jobs import record_at
from typer.testing import CliRunner

from slimsweep.cli.arguments import from_shell
from slimsweep.cli.slim import app
from slimsweep.errors import ModelError
from slimsweep.pipeline import run as run_module
from slimsweep.records.tracking.mlflow import MLflow

pytest.importorskip("mlflow", reason="needs the package mlflow-skinny, which the extra `mlflow` installs")
pytest.importorskip("trackio", reason="needs the package trackio, which the extra `trackio` installs")

FAST = ("model=random", "evaluation=cost", "cache=off")
BOTH = ("tracker=[trackio,mlflow]", "tracker.mlflow.experiment=mine")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch):
    for name in ("TRACKIO_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def trackio_rows(outputs, table: str) -> list[tuple]:
    database = sqlite3.connect(outputs / "trackio" / "slimsweep.db")
    try:
        return database.execute(
            f"SELECT run_name, {'title' if table == 'alerts' else 'metrics'} FROM {table}"
        ).fetchall()
    finally:
        database.close()


def mlflow_runs(outputs, experiment: str = "mine") -> list:
    client = MLflow()._client(outputs)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_a_job_is_published_to_several_trackers_and_sent_again_without_doubles(slimsweep, tmp_path):
    outputs = tmp_path / "outputs"
    record = record_at(slimsweep(*FAST, *BOTH, "technique=magnitude"))
    ((name, numbers),) = trackio_rows(outputs, "metrics")
    assert name.startswith("random magnitude") and json.loads(numbers)["gmacs"] == record["gmacs"]
    (run,) = mlflow_runs(outputs)
    assert run.data.metrics["gmacs"] == pytest.approx(record["gmacs"])
    words = ["publish", record["key"][:10], "--tracker", "trackio", "--tracker", "mlflow", "--outputs", str(outputs)]
    answer = CliRunner().invoke(app, [*words, "--format", "json"])
    assert json.loads(answer.stdout) == {"published": 1, "records": 1, "published_sweeps": [], "sweeps": []}
    assert len(trackio_rows(outputs, "metrics")) == 1 and len(mlflow_runs(outputs, "slimsweep")) == 1


def test_a_failed_job_raises_an_alert_in_each_tracker(slimsweep, tmp_path):
    own = (f"--config-dir={PROJECT / 'tests' / 'conf'}",)
    assert slimsweep(*own, *FAST, *BOTH, "technique=breaking").status == 1
    ((name, title),) = trackio_rows(tmp_path / "outputs", "alerts")
    assert title == "job failed" and "breaking" in name
    (run,) = mlflow_runs(tmp_path / "outputs")
    assert run.info.status == "FAILED" and "broke half-way" in run.data.tags["slimsweep.alerts"]


def test_a_failed_addition_to_a_record_leaves_its_run_and_adds_an_alert(slimsweep, tmp_path, monkeypatch):
    def broken(*_):
        raise ModelError("the new metric broke")

    words, outputs = (*FAST, *BOTH, "technique=magnitude"), tmp_path / "outputs"
    record = record_at(slimsweep(*words))
    more = (*words, "+metric=perplexity", "evaluation.metrics.perplexity.context_tokens=64")
    monkeypatch.setattr(run_module, "run", broken)
    assert slimsweep(*more).status == 1
    ((name, numbers),) = trackio_rows(outputs, "metrics")
    assert name.startswith("random magnitude") and json.loads(numbers)["gmacs"] == record["gmacs"]
    assert [title for _, title in trackio_rows(outputs, "alerts")] == ["job failed"]
    (run,) = mlflow_runs(outputs)
    assert run.info.status == "FINISHED" and run.data.metrics["gmacs"] == pytest.approx(record["gmacs"])
    assert "the new metric broke" in run.data.tags["slimsweep.alerts"]


def test_a_tracker_that_is_not_installed_is_refused_before_the_job(slimsweep, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "trackio" else find(name, *more)
    )
    answer = slimsweep(*FAST, "tracker=trackio", "technique=magnitude")
    assert answer.status == 1 and "pip install 'slimsweep[trackio]'" in answer.err
    assert not list((tmp_path / "outputs").glob("records/*"))


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["tracker.project=mine"], ["tracker.wandb.project=mine"]),
        (["tracker.experiment=mine", "tracker=mlflow"], ["tracker.mlflow.experiment=mine", "tracker=mlflow"]),
        (["tracker.wandb.project=1e5"], ["tracker.wandb.project='1e5'"]),
        (["tracker=[wandb,mlflow]", "tracker.project=x"], ["tracker=[wandb,mlflow]", "tracker.project=x"]),
        (["tracker=theirs", "tracker.project=x"], ["tracker=theirs", "tracker.project=x"]),
    ],
)
def test_a_setting_of_the_only_tracker_may_leave_out_its_name(words, read):
    assert from_shell(words) == read
