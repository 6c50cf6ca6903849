"""Runs sent to an HTTP recorder, which answers as much of MLflow's REST API as is needed. Not a real server."""

import json

import pytest
from made_up import record
from mlflow_recorder import recording

pytest.importorskip("mlflow", reason="needs the package mlflow-skinny, which the extra `mlflow` installs")

from slimsweep.records.tracking.mlflow import ID_TAG, MLflow
from slimsweep.records.tracking.published import run_id

TOKEN = "planted0token0of0mlflow"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with recording() as recorder:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", recorder.address)
        yield recorder


def test_a_record_sent_twice_is_one_run_of_the_server(server, tmp_path, caplog, capfd):
    one = record("wanda", 0.5, 0)
    for _ in range(2):
        assert MLflow().publish(one, ["unstructured"], tmp_path), caplog.text
    (run,) = server.active()
    assert server.experiment == "slimsweep" and run["info"]["status"] == "FINISHED"
    assert {"key": ID_TAG, "value": run_id(one)} in run["data"]["tags"]
    assert {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}["perplexity_wikitext2"] == 35.0
    written = json.loads(server.files[f"{run['info']['run_id']}/record.json"])
    assert written["protocols"] == one["protocols"]
    assert not (tmp_path / "mlruns").exists()
    shown = "".join([*capfd.readouterr(), caplog.text, json.dumps([server.runs, written])])
    assert set(server.headers) == {f"Bearer {TOKEN}"} and TOKEN not in shown
    assert "View run" not in shown  # it would stand in the JSON of a command


def test_a_failed_job_reaches_the_server(server, tmp_path):
    assert MLflow().publish_failure("0" * 64, "tiny gptq", "ModelError: refused", tmp_path)
    (run,) = server.active()
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert (
        run["info"]["status"] == "FAILED" and tags["slimsweep.alerts"] == "job failed: tiny gptq: ModelError: refused"
    )


def test_what_a_server_answers_is_shown_without_the_token(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(server, "answer", lambda *_: (400, {"error_code": "INVALID", "message": f"bad token {TOKEN}"}))
    assert not MLflow().publish(record(), [], tmp_path)
    assert "bad token ***" in caplog.text and TOKEN not in caplog.text


def test_an_address_is_shown_without_its_password(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:planted0password@127.0.0.1:9/")  # nothing listens there
    assert not MLflow().publish(record(), [], tmp_path)
    assert "MLflow" in caplog.text and "planted0password" not in caplog.text
