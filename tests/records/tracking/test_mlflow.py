"""MLflow with files on this disk, read back by its own client."""

import json
from pathlib import Path

import pytest
from made_up import curve, record

mlflow = pytest.importorskip("mlflow", reason="needs the package mlflow-skinny, which the extra `mlflow` installs")

from slimsweep.records.store import Store  # noqa: E402
from slimsweep.records.tracking.mlflow import MLflow  # noqa: E402


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MLflow()._client(tmp_path)


def runs(client, experiment="slimsweep") -> list:
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_a_record_becomes_one_run_with_its_numbers_and_settings(tmp_path, client):
    one = record("wanda", 0.5, 0)
    assert MLflow().publish(one, ["unstructured"], tmp_path) is True
    (run,) = runs(client)
    assert run.data.metrics["perplexity_wikitext2"] == 35.0 and run.data.metrics["ratio"] == 0.5
    assert run.data.params["technique"] == "wanda" and run.data.tags["sweeps"] == "unstructured"
    assert run.info.status == "FINISHED" and run.info.run_name.startswith("tiny wanda")
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    assert json.loads((folder / "record.json").read_text())["protocols"] == one["protocols"]
    assert json.loads((folder / "settings.json").read_text())["calibration"]["sequences"] == 16
    assert "mlflow.user" not in run.data.tags


def test_publishing_again_replaces_the_run(tmp_path, client):
    one = record("wanda", 0.5, 0)
    for value in (35.0, 36.0):
        assert MLflow().publish(one | {"perplexity_wikitext2": value}, [], tmp_path)
    (run,) = runs(client)
    assert run.data.metrics["perplexity_wikitext2"] == 36.0


def test_a_sweep_is_a_run_with_curves_and_figures(tmp_path, client):
    (tmp_path / "curve.png").write_bytes(b"png")
    records = [record(), *curve("wanda")]
    figures = [tmp_path / "curve.png", tmp_path / "curve.pdf"]
    assert MLflow(experiment="mine").publish_sweep("unstructured", records, figures, tmp_path)
    (run,) = runs(client, "mine")
    (name,) = [name for name in run.data.metrics if name.startswith("perplexity_wikitext2/")]
    points = client.get_metric_history(run.info.run_id, name)
    assert [point.step for point in points] == [round(1000 * one["ratio"]) for one in curve("wanda")]
    assert [one.path for one in client.list_artifacts(run.info.run_id, "figures")] == ["figures/curve.png"]


def test_a_failed_job_and_an_alert_stand_in_tags_until_the_record_comes(tmp_path, client):
    dense, one = record(), record("wanda", 0.9)
    one |= {"base_key": dense["key"], "perplexity_wikitext2": 1e5}
    Store(tmp_path).write(dense, [])
    assert MLflow().publish_failure(one["key"], "tiny wanda", "ModelError: /a/b is gone", tmp_path)
    (run,) = runs(client)
    assert (
        run.info.status == "FAILED"
        and run.data.tags["slimsweep.alerts"] == "job failed: tiny wanda: ModelError: b is gone"
    )
    assert MLflow().publish(one, [], tmp_path)
    (run,) = runs(client)
    assert run.info.status == "FINISHED" and "perplexity over ten times dense" in run.data.tags["slimsweep.alerts"]


def test_a_store_that_cannot_be_used_is_a_warning(tmp_path, caplog):
    (tmp_path / "mlruns").write_text("a file")
    assert MLflow().publish(record(), [], tmp_path) is False and "MLflow" in caplog.text


def test_names_with_brackets_are_written_in_the_characters_that_mlflow_has(tmp_path, client):
    one = record() | {"perplexity_wikitext2[max_windows=4]": 30.0}
    assert MLflow().publish(one, [], tmp_path)
    assert runs(client)[0].data.metrics["perplexity_wikitext2_max_windows_4_"] == 30.0


def test_a_password_in_the_address_is_refused_and_not_repeated():
    for uri in ("https://me:secret@host/path", "https://secret@host", "postgresql+psycopg://me:secret@host/db"):
        with pytest.raises(ValueError, match="MLFLOW_TRACKING_PASSWORD") as error:
            MLflow(uri=uri)
        assert "secret" not in str(error.value)
    assert MLflow(uri="file:///home/a@b").uri and MLflow(uri="https://host:5000").uri
