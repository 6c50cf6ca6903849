"""Runs sent online to an HTTP recorder, which answers as much of W&B's protocol as is needed. Not the real service."""

import json
import logging

import pytest
from made_up import curve, record
from wandb_recorder import ENTITY, KEY, planted

from slimsweep.records.store import Store
from slimsweep.records.tracking import wandb as tracker_module
from slimsweep.records.tracking.published import run_id
from slimsweep.records.tracking.wandb import Wandb


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    monkeypatch.setattr(tracker_module, "_unreachable", False)
    with planted(monkeypatch, tmp_path) as server:
        yield server


def texts(folder) -> bytes:
    """Contents of every file below a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_record_sent_twice_is_one_run_with_one_row(recorder, tmp_path):
    one = record("wanda", 0.5, 0)
    for _ in range(2):
        assert Wandb().publish(one, ["unstructured"], tmp_path)
    assert list(recorder.runs) == [run_id(one)]
    run = recorder.runs[run_id(one)]
    assert (run["project"], run["groupName"], run["jobType"]) == ("slimsweep", "unstructured", "experiment")
    assert json.loads(run["config"])["technique"]["value"] == "wanda" and "unstructured" in run["tags"]
    assert recorder.summary(run_id(one))["perplexity_wikitext2"] == 35.0
    streams = [body["files"]["wandb-history.jsonl"] for body in recorder.streams[run_id(one)] if "files" in body
               and "wandb-history.jsonl" in body["files"]]  # fmt: skip
    assert [(stream["offset"], len(stream["content"])) for stream in streams] == [(0, 1), (0, 1)]
    assert len([path for path in (tmp_path / "wandb").glob("run-*") if not path.is_symlink()]) == 1


def test_a_sweep_is_sent_with_its_table_and_charts(recorder, tmp_path):
    assert Wandb().publish_sweep("mine", [record(), *curve("wanda")], [], tmp_path)
    assert recorder.summary("sweep-mine")["jobs"] == 4
    assert any(name.startswith("media/table/records_") for name in recorder.uploads)


def test_alerts_reach_the_server(recorder, tmp_path):
    dense, far = record(), record("wanda", 0.9, base_key=record()["key"], perplexity_wikitext2=1e5)
    Store(tmp_path).write(dense, [])
    training = {"training": {"loss_start": 2.0, "loss_end": 9.0, "curve": []}}
    diverged = record("wanda", 0.5) | {"stages": [{"name": "lora", "technique": "lora", "notes": training}]}
    for one in (far, diverged):
        assert Wandb().publish(one, [], tmp_path)
    assert Wandb().publish_failure("0" * 64, "tiny gptq", "ModelError: refused", tmp_path)
    alerts = recorder.named("NotifyScriptableRunAlert")
    sent = [(alert["runName"], alert["title"], alert["severity"]) for alert in alerts]
    assert sent == [
        (run_id(far), "perplexity over ten times dense", "WARN"),
        (run_id(diverged), "loss diverged", "WARN"),
        ("0" * 16, "job failed", "ERROR"),
    ]
    assert all(alert["entityName"] == ENTITY for alert in alerts)


def test_the_key_is_in_no_file_log_or_message(recorder, tmp_path, caplog, capfd):
    one = record("wanda", 0.5)
    assert Wandb().publish(one, [], tmp_path)
    recorder.refusal = (400, json.dumps({"errors": [{"message": f"bad key {KEY}"}]}))
    caplog.clear()  # where another test left the level at INFO, the first address was logged
    with caplog.at_level(logging.DEBUG, logger="slimsweep"):
        assert Wandb().publish(record("wanda", 0.6), [], tmp_path)  # kept offline
    assert KEY.encode() not in texts(tmp_path) + json.dumps(recorder.operations).encode()
    messages = [line.getMessage() for line in caplog.records if line.name.startswith("slimsweep")]
    assert "bad key ***" in messages[0] and "kept offline" in messages[0]
    assert KEY not in "".join([*messages, *capfd.readouterr()])


def test_a_key_of_the_netrc_file_is_in_no_message(recorder, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / ".netrc").write_text(f"machine {recorder.address.removeprefix('http://')} login user password {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    recorder.refusal = (400, json.dumps({"errors": [{"message": f"bad key {KEY}"}]}))
    with caplog.at_level(logging.DEBUG, logger="slimsweep"):
        assert Wandb().publish(record("wanda", 0.6), [], tmp_path)  # kept offline
    messages = [line.getMessage() for line in caplog.records if line.name.startswith("slimsweep")]
    assert "bad key ***" in messages[0] and KEY not in "".join(messages)
