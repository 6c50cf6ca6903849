import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import curve, record

from slimsweep.records.store import Store
from slimsweep.records.tracking import wandb as tracker_module
from slimsweep.records.tracking.credentials import has_key
from slimsweep.records.tracking.wandb import Wandb, stop_service

WANDB_VARIABLES = (
    *("MODE", "PROJECT", "ENTITY", "TAGS", "NOTES", "DIR", "API_KEY", "BASE_URL", "IDENTITY_TOKEN_FILE", "CONFIG_DIR"),
    *("SWEEP_ID", "SWEEP_PARAM_PATH", "RUN_ID", "RESUME", "LAUNCH", "RUN_GROUP"),
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No key, no WANDB_* of the developer, an empty home and working directory."""
    for name in WANDB_VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tracker_module, "_unreachable", False)


def runs(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "wandb").glob("*run-*") if not path.is_symlink())


def inspect(run: Path, *options: str) -> str:
    """What `wandb leet inspect` reads back from a run on disk."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *options, "--json", str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def fresh_wandb():
    """Forget wandb's own settings: it reads files and environment once in a process."""
    stop_service()


def header(run: Path) -> dict:
    lines = [json.loads(line) for line in inspect(run).splitlines()]
    return next(line["run"] for line in lines if line["type"] == "run")


def test_a_record_becomes_one_finished_offline_run(tmp_path):
    one = record("wanda", 0.5, 0)
    assert Wandb(tags=("mine",), notes="a note").publish(one, ["unstructured", "seeds"], tmp_path) is True
    (run,) = runs(tmp_path)
    read = json.loads(inspect(run, "--summary"))
    assert read["state"] == "finished" and read["run_id"] == one["key"][:16] and read["notes"] == "a note"
    assert read["summary"]["perplexity_wikitext2"] == 35.0 and read["summary"]["ratio"] == 0.5
    assert read["summary"]["protocols"] == one["protocols"]
    assert read["config"]["technique"] == "wanda" and read["config"]["settings"]["calibration"]["sequences"] == 16
    assert {"tiny", "wanda", "ratio=0.5", "unstructured", "seeds", "mine"} <= set(read["tags"])
    assert header(run)["run_group"] == "unstructured" and header(run)["job_type"] == "experiment"


def test_publishing_again_replaces_the_run(tmp_path):
    one = record("wanda", 0.5, 0)
    older = tmp_path / "wandb" / f"offline-run-20200101_000000-{one['key'][:16]}"
    other = tmp_path / "wandb" / "offline-run-20200101_000000-0123456789abcdef"
    for folder in (older, other):
        folder.mkdir(parents=True)
    for sweeps in (["a"], ["a", "b"]):
        assert Wandb().publish(one, sweeps, tmp_path)
    assert not older.exists() and other.exists()
    (run,) = [run for run in runs(tmp_path) if run != other]
    assert "b" in json.loads(inspect(run, "--summary"))["tags"]


def test_jobs_of_one_process_get_runs_of_their_own(tmp_path):
    records = [record(), *curve("wanda")]
    assert all(Wandb().publish(one, [], tmp_path) for one in records)
    found = {read["run_id"]: read for read in (json.loads(inspect(run, "--summary")) for run in runs(tmp_path))}
    assert set(found) == {one["key"][:16] for one in records}
    for one in records:
        assert found[one["key"][:16]]["summary"]["perplexity_wikitext2"] == one["perplexity_wikitext2"]


def test_nothing_of_this_machine_is_published(tmp_path):
    one = record("wanda", 0.5, config={"model": {"path": str(Path.home() / "models" / "tiny")}})
    Wandb().publish(one, [], tmp_path)
    (run,) = runs(tmp_path)
    text = inspect(run)
    assert not header(run).get("host")
    assert '"git"' not in text and str(tmp_path) not in text and str(Path.home()) not in text
    assert f'"{socket.gethostname()}"' not in text
    assert [path for path in (run / "files").rglob("*") if path.is_file()] == []


def test_a_sweep_becomes_a_run_with_table_charts_and_images(tmp_path):
    from PIL import Image

    png, pdf = tmp_path / "ratio_curve_wikitext2.png", tmp_path / "ratio_curve_wikitext2.pdf"
    Image.new("RGB", (4, 4)).save(png)
    pdf.write_bytes(b"")
    records = [record(), *curve("wanda")]
    for _ in range(2):
        assert Wandb().publish_sweep("unstructured", records, [png, pdf], tmp_path)
    (run,) = runs(tmp_path)
    read = json.loads(inspect(run, "--summary"))
    assert read["run_id"] == "sweep-unstructured" and header(run)["job_type"] == "sweep"
    assert read["summary"]["records"]["nrows"] == 4
    assert read["summary"]["figures/ratio_curve_wikitext2"]["_type"] == "image-file"
    assert read["summary"]["curves/perplexity_wikitext2_table"]["nrows"] == 3
    (table,) = run.glob("files/media/table/records_*.table.json")
    content = json.loads(table.read_text())
    assert [row[content["columns"].index("key")] for row in content["data"]] == [one["key"] for one in records]


def test_the_environment_wins(tmp_path, monkeypatch):
    for name, value in {"PROJECT": "theirs", "TAGS": "one,two", "NOTES": "noted"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    Wandb(project="mine", tags=("own",), notes="own").publish(record(), [], tmp_path)
    (run,) = runs(tmp_path / "elsewhere")
    read = json.loads(inspect(run, "--summary"))
    assert read["project"] == "theirs" and read["notes"] == "noted"
    assert {"one", "two", "tiny"} <= set(read["tags"]) and "own" not in read["tags"]


def test_options_of_a_command_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "them")
    tracker = Wandb(project="mine", entity="me")
    assert tracker.destination() == ("theirs", "them")
    assert tracker.with_options(["project"]).destination() == ("mine", "them")
    assert tracker.with_options(["project", "entity"]).destination() == ("mine", "me")
    assert Wandb().with_options(["mode"]).destination() == ("theirs", "them")


def test_disabled_publishes_nothing(tmp_path, monkeypatch):
    assert Wandb(mode="disabled").publish(record(), [], tmp_path) is False
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert Wandb().publish(record(), [], tmp_path) is False
    assert not (tmp_path / "wandb").exists()


def test_an_unreachable_server_is_a_warning_and_an_offline_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setattr(tracker_module, "INIT_SECONDS", 2)
    stop_service()  # wandb read the environment when its service started
    with caplog.at_level(logging.WARNING, logger="slimsweep"):
        assert Wandb().publish(record(), [], tmp_path) is True
        assert Wandb().publish(record("wanda", 0.5), [], tmp_path) is True
    warnings = [line for line in caplog.records if line.name.startswith("slimsweep")]
    assert len(warnings) == 1 and "kept offline" in caplog.text  # the second did not wait again
    assert [run.name.split("-")[0] for run in runs(tmp_path)] == ["offline", "offline"]


def test_a_failing_wandb_is_only_a_warning(tmp_path, monkeypatch, caplog):
    import wandb

    def broken(**_):
        raise RuntimeError("service died\nwith details")

    monkeypatch.setattr(wandb, "init", broken)
    with caplog.at_level(logging.WARNING, logger="slimsweep"):
        assert Wandb(mode="offline").publish(record(), [], tmp_path) is False
    assert "service died" in caplog.text and "with details" not in caplog.text


def test_a_run_is_finished_even_if_filling_it_fails(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setattr(tracker_module, "point_of", lambda record: 1 / 0)
    assert Wandb().publish(record(), [], tmp_path) is False
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Wandb().publish(record("wanda", 0.5), [], tmp_path) is True
    states = {
        read["run_id"]: read["exit_code"] for read in (json.loads(inspect(r, "--summary")) for r in runs(tmp_path))
    }
    assert states == {record()["key"][:16]: 1, record("wanda", 0.5)["key"][:16]: 0}
    assert wandb.run is None


def test_a_folder_that_cannot_be_written_is_only_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="slimsweep"):
        assert Wandb(mode="offline").publish(record(), [], tmp_path / "file") is False
    assert "not mirrored" in caplog.text


def test_auto_is_online_only_with_a_key(tmp_path, monkeypatch):
    assert not has_key() and Wandb().resolved_mode() == "offline"
    home = Path(os.environ["HOME"])
    home.mkdir()
    (home / ".netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert has_key() and Wandb().resolved_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_key()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Wandb().resolved_mode() == "offline"


def test_a_mistyped_mode_names_what_is_allowed():
    with pytest.raises(ValueError, match=r"tracker.wandb.mode='on': give auto, online, offline or disabled"):
        Wandb(mode="on")


def wandb_command(*words: str) -> None:
    subprocess.run([str(Path(sys.executable).parent / "wandb"), *words], check=True, capture_output=True)


@pytest.mark.parametrize("folder", ["", "elsewhere"])
def test_what_wandbs_own_commands_chose_holds_until_a_mode_is_given(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)  # alone it would mean online
    if folder:
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / folder))
    wandb_command("disabled")
    assert Wandb().publish(record(), [], tmp_path) is False and not (tmp_path / "wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert Wandb().resolved_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert Wandb().resolved_mode() == "offline" and Wandb(mode="online").resolved_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    fresh_wandb()
    assert Wandb(mode="offline").publish(record(), [], tmp_path) is True
    assert len(runs(tmp_path / folder)) == 1
    monkeypatch.delenv("WANDB_MODE")
    wandb_command("offline")
    assert Wandb().resolved_mode() == "offline"
    wandb_command("online")
    assert Wandb().resolved_mode() == "online"


def test_the_folders_settings_win_over_the_users_and_below_the_fields(tmp_path, monkeypatch):
    user = Path(os.environ["HOME"]) / ".config" / "wandb" / "settings"
    user.parent.mkdir(parents=True)
    user.write_text("[default]\nmode = disabled\nentity = us\nproject = ours\nbase_url = https://wandb.example.org\n")
    assert Wandb().resolved_mode() == "disabled"
    (Path(os.environ["HOME"]) / ".netrc").write_text("machine wandb.example.org login user password " + "0" * 40)
    assert has_key()
    Path("wandb").mkdir()
    Path("wandb/settings").write_text("[default]\nmode = offline\nproject = 50%\n")
    assert Wandb().resolved_mode() == "offline"
    Path("wandb/settings").write_text("[default]\nmode = offline\nproject = mine\n")
    fresh_wandb()
    for tracker, project in ((Wandb(), "mine"), (Wandb(project="given"), "given")):
        tracker.publish(record(), [], tmp_path)
        read = header(runs(tmp_path)[0])
        assert (read["project"], read["entity"]) == (project, "us")
    Path("wandb/settings").write_bytes(b"\xff no settings")
    assert Wandb().resolved_mode() == "disabled"


def test_a_key_keeps_its_run_under_an_agent(tmp_path, monkeypatch):
    Path("parameters.yaml").write_text("foreign:\n  value: 1\n")
    agent = {"SWEEP_ID": "abc123", "RUN_ID": "agents", "RESUME": "must", "LAUNCH": "true", "PROJECT": "theirs"}
    for name, value in (agent | {"SWEEP_PARAM_PATH": str(Path("parameters.yaml").absolute())}).items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name, value in {"TRAINING_JOB_NAME": "sagemakers", "SM_TRAINING_ENV": "{}", "CURRENT_HOST": "h"}.items():
        monkeypatch.setenv(name, value)
    fresh_wandb()
    records = [record("wanda", 0.5), record("wanda", 0.6)]
    assert all(Wandb().publish(one, ["mine"], tmp_path) for one in records)
    assert Wandb().publish_sweep("mine", records, [], tmp_path)
    found = {read["run_id"]: read for read in map(header, runs(tmp_path))}
    assert set(found) == {"sweep-mine", *(one["key"][:16] for one in records)}
    assert found[records[0]["key"][:16]]["sweep_id"] == "abc123" and not found["sweep-mine"].get("sweep_id")
    assert all("foreign" not in inspect(run) for run in runs(tmp_path))
    for name in agent:
        monkeypatch.delenv(f"WANDB_{name}")
    fresh_wandb()
    assert Wandb().publish(records[0], ["mine"], tmp_path)  # as `slim publish` does afterwards
    assert len(runs(tmp_path)) == 3
    fresh_wandb()


def test_a_run_replaces_its_own_folders_and_no_others(tmp_path):
    (tmp_path / ".wandb").mkdir()  # where W&B then puts its runs
    kept = [tmp_path / ".wandb" / f"offline-run-20200101_000000-sweep-{name}" for name in ("a-1", "sweep-a", "b")]
    for folder in kept:
        folder.mkdir()
    for _ in range(4):  # some within one second, which W&B numbers
        assert Wandb().publish_sweep("a", [record()], [], tmp_path)
    left = {path.name for path in (tmp_path / ".wandb").glob("offline-run-*")}
    assert {path.name for path in kept} < left and len(left) == 4


def test_alerts_stand_in_the_run_and_its_summary(tmp_path):
    dense, one = record(), record("wanda", 0.9)
    one |= {"base_key": dense["key"], "perplexity_wikitext2": 1e5}
    Store(tmp_path).write(dense, [])
    assert Wandb().publish(one, [], tmp_path)
    (run,) = runs(tmp_path)
    assert "perplexity over ten times dense" in json.loads(inspect(run, "--summary"))["summary"]["alerts"][0]
    assert '"alert"' in inspect(run)


def test_a_failed_job_is_a_run_that_its_record_replaces(tmp_path):
    one = record("wanda", 0.5, 0)
    assert Wandb().publish_failure(one["key"], "tiny wanda", "ModelError: /a/b is gone", tmp_path)
    (run,) = runs(tmp_path)
    summary = json.loads(inspect(run, "--summary"))["summary"]
    assert summary["state"] == "failed" and summary["reason"] == "ModelError: b is gone"
    assert summary["alerts"] == ["job failed: tiny wanda: ModelError: b is gone"]
    assert Wandb().publish(one, [], tmp_path)
    (run,) = runs(tmp_path)
    assert "state" not in json.loads(inspect(run, "--summary"))["summary"]
