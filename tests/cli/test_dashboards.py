"""`slim dashboard` without a server: its specification, and input that it refuses."""

import json

import pytest
from made_up import curve, record, sweep
from typer.testing import CliRunner

from slimsweep.cli.slim import app
from slimsweep.records.store import Store, SweepJob
from slimsweep.reports.dashboards import wandb_server


@pytest.fixture
def outputs(tmp_path):
    store = Store(tmp_path / "outputs")
    sweep(store, "mine", [record(), *curve("wanda")])
    store.open_sweep("empty", [SweepJob("0" * 64, "tiny wanda", [])])
    return store.outputs_dir


def slim(*words, outputs):
    return CliRunner().invoke(app, ["dashboard", *words, "--outputs", str(outputs)])


def test_a_dry_run_prints_the_panels_and_needs_no_key(outputs, monkeypatch):
    monkeypatch.setattr(wandb_server, "save", lambda *_: pytest.fail("nothing may be sent"))
    text = slim("mine", "--dry-run", outputs=outputs)
    assert text.exit_code == 0 and "perplexity_wikitext2 over ratio, a line for each technique" in text.stdout
    shown = json.loads(slim("mine", "--dry-run", "--format", "json", outputs=outputs).stdout)
    assert shown["project"] == "slimsweep" and shown["title"] == "slimsweep mine"
    assert shown["views"][0]["sections"][0]["panels"][0]["y"] == ["perplexity_wikitext2"]


def test_project_and_entity_that_are_given_win_over_the_environment(outputs, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "them")
    words = ("mine", "--dry-run", "--format", "json")
    places = [
        json.loads(slim(*words, *given, outputs=outputs).stdout) for given in ((), ("--project", "p", "--entity", "e"))
    ]
    assert [(place["project"], place["entity"]) for place in places] == [("theirs", "them"), ("p", "e")]


def test_saved_addresses_are_printed(outputs, monkeypatch):
    report = {"title": "t", "url": "https://host/report", "updated": True}
    view = {"name": "v", "url": "https://host/view", "updated": False}
    monkeypatch.setattr(wandb_server, "faults", lambda *_: [])
    monkeypatch.setattr(wandb_server, "save", lambda *_: {"report": report, "workspaces": [view]})
    told = slim("mine", outputs=outputs)
    assert told.stdout == "report updated: https://host/report\nworkspace created: https://host/view\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["empty", "--dry-run"], "no job of empty has a record"),
        (["other", "--dry-run"], "no sweep 'other'"),
        (["mine"], "set WANDB_MODE=online, or run `wandb online`"),
    ],
)
def test_what_cannot_be_shown_or_sent_is_refused(outputs, words, message):
    answer = slim(*words, outputs=outputs)  # tests run with WANDB_MODE=offline
    assert answer.exit_code == 1 and message in answer.stderr and "Traceback" not in answer.output
