"""Trackio's SQLite files, read back with sqlite3 and by Trackio itself."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest
from browser import chromium
from made_up import curve, record

pytest.importorskip("trackio", reason="needs the package trackio, which the extra `trackio` installs")

from slimsweep.records.store import Store
from slimsweep.records.tracking.trackio import Trackio, storage_in


@pytest.fixture(autouse=True)
def no_folder_of_the_user(monkeypatch):
    monkeypatch.delenv("TRACKIO_DIR", raising=False)


def rows(folder, table: str, project: str = "slimsweep") -> list[dict]:
    database = sqlite3.connect(folder / "trackio" / f"{project}.db")
    database.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
    finally:
        database.close()


def test_a_record_becomes_one_run_in_the_file_of_its_project(tmp_path):
    one = record("wanda", 0.5, 0)
    assert Trackio(project="mine").publish(one, ["unstructured"], tmp_path) is True
    (row,) = rows(tmp_path, "metrics", "mine")
    assert row["run_id"] == one["key"][:16] and row["run_name"].startswith("tiny wanda")
    assert json.loads(row["metrics"])["perplexity_wikitext2"] == 35.0
    (config,) = rows(tmp_path, "configs", "mine")
    settings = json.loads(config["config"])
    assert settings["technique"] == "wanda" and settings["_Group"] == "unstructured" and "_Username" not in settings


def test_publishing_again_replaces_the_run(tmp_path):
    one = record("wanda", 0.5, 0)
    for value in (35.0, 36.0):
        assert Trackio().publish(one | {"perplexity_wikitext2": value}, [], tmp_path)
    (row,) = rows(tmp_path, "metrics")
    assert json.loads(row["metrics"])["perplexity_wikitext2"] == 36.0
    with storage_in(tmp_path / "trackio") as storage:
        assert len(storage.get_run_records("slimsweep")) == 1


def test_a_run_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch, caplog):
    one = record("wanda", 0.5, 0)
    assert Trackio().publish(one, [], tmp_path) and Trackio().publish(record("wanda", 0.7, 0), [], tmp_path)
    before = rows(tmp_path, "metrics")

    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    with storage_in(tmp_path / "trackio") as storage:
        monkeypatch.setattr(storage, "bulk_log", full)
    assert not Trackio().publish(one | {"perplexity_wikitext2": 36.0}, [], tmp_path) and "disk is full" in caplog.text
    assert rows(tmp_path, "metrics") == before


def test_a_sweep_is_a_run_with_a_row_for_each_ratio(tmp_path):
    assert Trackio().publish_sweep("unstructured", [record(), *curve("wanda")], [], tmp_path)
    found = [json.loads(row["metrics"]) for row in rows(tmp_path, "metrics")]
    assert [row["ratio"] for row in found] == [one["ratio"] for one in curve("wanda")]
    assert all(any(name.startswith("perplexity_wikitext2/") for name in row) for row in found)


def test_a_failed_job_and_a_bad_record_raise_alerts(tmp_path):
    dense, one = record(), record("wanda", 0.9)
    one |= {"base_key": dense["key"], "perplexity_wikitext2": 1e5}
    Store(tmp_path).write(dense, [])
    assert Trackio().publish_failure(one["key"], "tiny wanda", "ModelError: gone", tmp_path)
    (alert,) = rows(tmp_path, "alerts")
    assert (alert["title"], alert["level"]) == ("job failed", "error") and "gone" in alert["text"]
    assert Trackio().publish(one, [], tmp_path)
    (alert,) = rows(tmp_path, "alerts")
    assert (alert["title"], alert["level"]) == ("perplexity over ten times dense", "warn")


def test_a_loss_curve_has_a_row_for_each_of_its_points(tmp_path):
    points = [{"step": step, "validation_loss": 3.0 - step} for step in range(2)]
    stages = [{"name": "lora", "notes": {"training": {"curve": points}}}]
    assert Trackio().publish(record("wanda", 0.5) | {"stages": stages}, [], tmp_path)
    found = [json.loads(row["metrics"]) for row in rows(tmp_path, "metrics")]
    assert [row.get("lora/validation_loss") for row in found] == [3.0, 2.0, None]


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "trackio").write_text("a file")
    assert Trackio().publish(record(), [], tmp_path) is False and "Trackio" in caplog.text


def test_a_project_that_is_no_file_name_is_refused():
    with pytest.raises(ValueError, match="letters, digits"):
        Trackio(project="../mine")


SHOW = """
import sys, trackio
trackio.show("slimsweep", open_browser=False, block_thread=True, server_port=int(sys.argv[1]))
"""


@pytest.fixture
def dashboard(tmp_path):
    """Address of Trackio's dashboard of two runs, one with an alert."""
    dense, one = record(), record("wanda", 0.9)
    one |= {"base_key": dense["key"], "perplexity_wikitext2": 1e5}
    Store(tmp_path).write(dense, [])
    for published in (dense, one):
        assert Trackio().publish(published, ["unstructured"], tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen([sys.executable, "-c", SHOW, str(port)], env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
                break
            time.sleep(0.5)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_the_dashboard_shows_the_runs_in_a_browser(dashboard, tmp_path):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{dashboard}?project=slimsweep", timeout=300_000)
        for shown in ("tiny wanda", "perplexity_wikitext2"):
            page.get_by_text(shown).first.wait_for(timeout=300_000)
            assert page.get_by_text(shown).first.is_visible()
        page.screenshot(path=os.environ.get("TRACKIO_SCREENSHOT") or tmp_path / "dashboard.png")
