"""`slim publish` of sweeps and keys, and of trackers with different settings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import curve, record, sweep
from typer.testing import CliRunner

from slimsweep.cli.publishing import chosen, mirror_of
from slimsweep.cli.slim import app
from slimsweep.errors import ConfigError, StoreError
from slimsweep.records.store import Store
from slimsweep.records.tracking.several import Several
from slimsweep.records.tracking.wandb import Wandb


def test_sweeps_and_keys_are_chosen_each_record_once(tmp_path):
    store = Store(tmp_path)
    records = sweep(store, "mine", [record(), *curve("wanda")])
    found, sweeps = chosen(store, ["mine", records[0]["key"][:12]])
    assert [one["key"] for one in found] == [one["key"] for one in records] and sweeps == ["mine"]
    assert chosen(store, [records[1]["key"][:12]]) == ([records[1]], [])
    assert len(chosen(store, [])[0]) == 4
    with pytest.raises(StoreError, match="no sweep 'other'"):
        chosen(store, ["other"])
    with pytest.raises(StoreError, match="no record starts with"):
        chosen(store, ["0" * 12])


def test_each_of_several_trackers_gets_the_settings_that_it_has():
    pytest.importorskip("mlflow", reason="needs the package mlflow-skinny, which the extra `mlflow` installs")
    mirror = mirror_of(["wandb", "mlflow"], {"project": "mine", "mode": "offline"}, [])
    assert isinstance(mirror, Several) and mirror.trackers[0] == Wandb(project="mine", mode="offline")
    assert mirror_of(["wandb"], {"mode": "offline"}, []) == Wandb(mode="offline")
    with pytest.raises(ConfigError, match="none of mlflow, none has a setting project"):
        mirror_of(["mlflow", "none"], {"project": "mine"}, [])
    with pytest.raises(ConfigError, match="there is no tracker 'wandbb'"):
        mirror_of(["wandbb", "mlflow"], {}, [])


def test_a_sweep_that_was_not_sent_decides_the_exit_status(tmp_path, monkeypatch):
    sweep(Store(tmp_path), "mine", [record(), record("wanda", 0.5)])
    monkeypatch.setattr(Wandb, "publish", lambda *_: True)
    monkeypatch.setattr(Wandb, "publish_sweep", lambda *_: False)
    words = ["publish", "--mode", "offline", "--outputs", str(tmp_path)]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 1 and "2 of 2 records published, 0 of 1 sweeps" in refused.stdout
    monkeypatch.setattr(Wandb, "publish_sweep", lambda *_: True)
    sent = CliRunner().invoke(app, [*words, "--format", "json"])
    assert sent.exit_code == 0 and '"published_sweeps": [\n  "mine"' in sent.stdout


def test_a_sweep_that_was_not_sent_is_sent_by_the_next_launch(slimsweep, tmp_path, monkeypatch):
    answers, asked = iter([False, True]), []
    monkeypatch.setattr(Wandb, "publish", lambda *_: True)
    monkeypatch.setattr(Wandb, "publish_sweep", lambda self, name, *_: (asked.append(name), next(answers))[1])
    words = ("-m", "model=random", "evaluation=cost", "tracker=wandb", "technique=magnitude", "ratio=0.5", "sweep=mine")
    for _ in range(3):
        assert slimsweep(*words).status == 0
    assert asked == ["mine", "mine"]


def test_a_record_published_twice_is_one_offline_run_that_wandb_reads_back(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_DIR", raising=False)
    (one,) = sweep(Store(tmp_path), "mine", [record("wanda", 0.5)])
    for _ in range(2):
        words = ["publish", one["key"][:12], "--mode", "offline", "--outputs", str(tmp_path)]
        assert CliRunner().invoke(app, words).stdout == "1 of 1 records published\n"
    (run,) = (path for path in (tmp_path / "wandb").glob("offline-run-*") if not path.is_symlink())
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--summary", "--json", str(run)]
    read = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert read["run_id"] == one["key"][:16] and read["state"] == "finished" and "mine" in read["tags"]
    assert read["summary"]["perplexity_wikitext2"] == one["perplexity_wikitext2"]
