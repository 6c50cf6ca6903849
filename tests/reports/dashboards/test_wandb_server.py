"""Dashboards saved on an HTTP recorder, which answers as much of W&B's protocol as is needed. Not the real service."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
from made_up import curve, record
from wandb_recorder import ENTITY, KEY, planted

from slimsweep.errors import TrackerError
from slimsweep.records.tracking.wandb import Wandb
from slimsweep.reports.dashboards.views import Note, title, views
from slimsweep.reports.dashboards.wandb_server import faults, save

NOTES = [Note("Runs", ("4 records.",))]


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    with planted(monkeypatch, tmp_path) as server:
        yield server


def saved(records, names=("mine",)):
    return save(Wandb(), title(names), views(records, names), NOTES)


def test_a_workspace_and_a_report_are_created_once_and_then_updated(recorder):
    first = saved([record(), *curve("wanda")])
    (workspace,), (report,) = recorder.of_type("project-view"), recorder.of_type("runs")
    assert (workspace["entityName"], workspace["projectName"]) == (ENTITY, "slimsweep")
    assert recorder.projects == ["slimsweep"]  # which the report made
    assert first["report"]["url"].startswith(f"{recorder.address}/{ENTITY}/slimsweep/reports/slimsweep-mine--")
    assert first["workspaces"][0]["url"].startswith(f"{recorder.address}/{ENTITY}/slimsweep?nw=")
    assert not first["report"]["updated"] and not first["workspaces"][0]["updated"]
    second = saved([record(), *curve("wanda"), *curve("magnitude")])
    assert second["report"] == first["report"] | {"updated": True}
    assert second["workspaces"] == [first["workspaces"][0] | {"updated": True}]
    (again,) = recorder.of_type("project-view")
    assert again["id"] == workspace["id"] and again["name"] == workspace["name"]
    assert len(json.loads(again["spec"])["section"]["customRunColors"]) == 7
    assert len(recorder.of_type("runs")) == 1 and recorder.of_type("runs")[0]["id"] == report["id"]


def test_a_refusal_says_what_to_check_and_never_repeats_the_key(recorder, caplog, capfd):
    recorder.refusal = (401, json.dumps({"errors": [{"message": f"bad key {KEY}"}]}))
    with pytest.raises(TrackerError, match=r"cannot log in: .*wandb login --relogin") as error:
        saved([record()])
    out, err = capfd.readouterr()
    assert KEY not in str(error.value) + caplog.text + out + err


def test_a_key_without_a_default_entity_is_refused_at_once(recorder, monkeypatch):
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(default_entity=None))
    with pytest.raises(TrackerError, match="give --entity TEAM"):
        saved([record()])
    assert recorder.views == {}


def test_without_a_key_the_error_says_what_to_type(monkeypatch, tmp_path):
    for name in ("MODE", "API_KEY", "BASE_URL", "DIR", "CONFIG_DIR", "IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (fault,) = faults(Wandb())
    assert "there is no W&B API key: run `wandb login`, or set WANDB_API_KEY" in fault
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert faults(Wandb()) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    (fault,) = faults(Wandb())
    assert "set WANDB_MODE=online, or run `wandb online`" in fault


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert "pip install 'slimsweep[dashboards]'" in faults(Wandb())[0]
