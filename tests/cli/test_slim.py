import json
import logging
import os

import typer
from made_up import curve, record, sweep

from slimsweep.records.store import SweepJob


def test_status_counts_jobs_and_tells_why_one_failed(store, slim):
    done, failed, missing = curve("wanda")
    store.write(done, [])
    store.write_failure(failed["key"], "ModelError: NaN in model.layers.0")
    (store.folder(failed["key"]) / "job.log").write_text("traceback")
    store.open_sweep("mine", [SweepJob(one["key"], f"wanda {one['ratio']}", []) for one in (done, failed, missing)])
    whole, one = slim("status"), slim("status", "mine")
    assert "mine: 3 jobs, 1 done, 0 running, 1 failed, 1 missing" in whole.stdout
    assert "ModelError: NaN in model.layers.0" in whole.stdout and "job.log" in whole.stdout
    assert "wanda 0.9" in one.stdout and "wanda 0.9" not in whole.stdout
    assert whole.exit_code == one.exit_code == 0


def test_show_is_one_record(store, slim):
    (one,) = sweep(store, "mine", [record()])
    assert json.loads(slim("show", one["key"][:6]).stdout) == one
    missing = slim("show", "0000")
    assert missing.exit_code == 1 and missing.stdout == "" and "slim: no record starts with '0000'" in missing.stderr


def test_an_unknown_sweep_is_one_line_naming_the_known(store, slim):
    sweep(store, "mine", [record()])
    for words in (["table", "nope"], ["status", "nope"], ["compare", "mine", "nope"], ["figures", "--sweep", "nope"]):
        result = slim(*words)
        assert result.exit_code == 1 and "known: mine" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_nothing_there_yet_names_the_next_command(slim):
    for words in (["status"], ["figures"], ["publish"]):
        result = slim(*words)
        assert result.exit_code == 1 and "slimsweep +sweeps=unstructured" in result.stderr


def test_compare_joins_point_by_point(store, slim):
    sweep(store, "a", [record("wanda", 0.5), record("wanda", 0.6)])
    sweep(store, "b", [record("wanda", 0.5, perplexity_wikitext2=70.0)])
    result = slim("compare", "a", "b")
    assert "+100.0 %" in result.stdout and "only in a: wanda 0.6" in result.stderr
    (row,) = json.loads(slim("compare", "a", "b", "--format", "json").stdout)
    assert row["perplexity_wikitext2_change"] == 35.0


def test_compare_without_common_points_is_an_error(store, slim):
    sweep(store, "a", [record("wanda", 0.5)])
    sweep(store, "b", [record("wanda", 0.6)])
    assert slim("compare", "a", "b").exit_code == 1


def test_cache_lists_what_stages_left_and_clears_it(tmp_path, slim):
    from stages import experiment

    from slimsweep.pipeline.chain import compress

    made = experiment(tmp_path / "outputs" / "cache", "technique=[magnitude,rtn]")
    compress(made)
    head, packed, pruned, total = slim("cache").stdout.splitlines()
    assert packed.startswith("magnitude+rtn 0.5 ") and pruned.startswith("magnitude 0.5 ")
    assert head.split()[:2] == ["chain", "model"] and "random" in packed and total.startswith("2 entries, ")
    assert total.endswith(f"of 10.0 GB in {tmp_path / 'outputs' / 'cache' / 'stages'}")
    cleared = slim("cache", "--clear")
    assert cleared.exit_code == 0 and cleared.stdout.startswith("2 entries removed, ")
    assert slim("cache").stdout.startswith("0 entries, 0.0 MB of 10.0 GB in ")
    elsewhere = slim("cache", "--cache-dir", str(tmp_path / "none"))
    assert elsewhere.stdout == f"0 entries, 0.0 MB of 10.0 GB in {tmp_path / 'none' / 'stages'}\n"
    assert not (tmp_path / "none").exists()


def test_publish_sends_every_record_and_sweep(store, slim, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    sweep(store, "mine", [record(), record("wanda", 0.5)])
    for _ in range(2):
        result = slim("publish", "mine")
        assert result.exit_code == 0 and "2 of 2 records published" in result.stdout
    runs = [path for path in (store.outputs_dir / "wandb").glob("offline-run-*") if path.is_dir()]
    assert len({path.name.split("-", 3)[-1] for path in runs}) == len(runs) == 3
    (image,) = store.outputs_dir.glob(
        "wandb/offline-run-*-sweep-mine/files/media/images/figures/ratio_curve_wikitext2_*.png"
    )
    assert image.stat().st_size > 1000


def test_publish_names_the_allowed_modes(store, slim):
    result = slim("publish", "--mode", "on")
    assert result.exit_code == 1 and "auto, online, offline or disabled" in result.stderr


def test_publish_says_that_wandb_is_disabled(store, slim, monkeypatch):
    sweep(store, "mine", [record()])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    result = slim("publish")
    assert result.exit_code == 1 and "disabled by WANDB_MODE or `wandb disabled`: give --mode online" in result.stderr
    assert slim("publish", "--mode", "offline").exit_code == 0


def test_damaged_files_stop_no_command(store, slim, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    records = sweep(store, "mine", [record(), *curve("wanda")])
    sweep(store, "lost", [records[0]])
    folders = [store.folder(one["key"]) for one in records]
    for path in (folders[1] / "record.json", folders[1] / "layers.json", folders[2] / "layers.json"):
        path.write_bytes(path.read_bytes()[:20])
    (folders[1] / "failure.json").write_text("")
    (store.sweeps_dir / "lost" / "jobs.json").write_text("[")
    status = slim("status", "mine")
    assert status.exit_code == 0 and "4 jobs, 3 done, 0 running, 0 failed, 1 missing" in status.stdout
    assert slim("status").stdout == status.stdout.splitlines(keepends=True)[0]
    kept = [records[0], *records[2:]]
    assert json.loads(slim("table", "mine", "--format", "json").stdout) == kept
    assert len(json.loads(slim("table", "--format", "json").stdout)) == 3
    assert json.loads(slim("show", records[2]["key"][:12]).stdout) == records[2]
    damaged = slim("show", records[1]["key"][:12])
    assert damaged.exit_code == 1 and "no record starts with" in damaged.stderr
    assert slim("figures", "ratio_curve", "--sweep", "mine").exit_code == 0
    assert "3 of 3 records published" in slim("publish").stdout
    lost = slim("table", "lost")
    assert lost.exit_code == 1 and "slimsweep +sweeps=lost" in lost.stderr
    warned = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert len(warned) == 3  # each file once, however many commands read it
    for name in ("record.json", "failure.json", "jobs.json"):
        assert sum(f"{name} is damaged" in line for line in warned) == 1


def test_reading_commands_write_nothing(store, slim, tmp_path, monkeypatch):
    from small_jobs import contents

    done, *others = sweep(store, "mine", [record(), *curve("wanda")])
    (store.folder(others[0]["key"]) / "record.json").unlink()
    with store.claim(others[0]["key"]):
        before = contents(tmp_path)

        def refused(path, *_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        for name in ("mkdir", "replace", "unlink"):
            monkeypatch.setattr(os, name, refused)
        monkeypatch.setattr("filelock.FileLock.acquire", refused)
        running = slim("status", "mine")
        assert running.exit_code == 0 and "3 done, 1 running" in running.stdout
        for words in (["status"], ["table"], ["table", "mine"], ["show", done["key"][:9]], ["cache"]):
            assert slim(*words).exit_code == 0
        assert slim("compare", "mine", "mine").exit_code == 0
        refusal = slim("figures", "ratio_curve", "--sweep", "mine")  # writes, and says where it may not
        assert (
            refusal.exit_code == 1 and refusal.stderr == f"slim: {store.outputs_dir / 'figures'}: Permission denied\n"
        )
        assert contents(tmp_path) == before
        monkeypatch.undo()
    assert "3 done, 0 running, 0 failed, 1 missing" in slim("status", "mine").stdout


def test_status_show_and_cache_have_a_format_for_scripts(store, slim, tmp_path):
    done, failed, _ = curve("wanda")
    sweep(store, "mine", [done])
    store.write_failure(failed["key"], "ModelError: NaN")
    store.open_sweep("mine", [SweepJob(one["key"], "a job", []) for one in (done, failed)])
    (one,) = json.loads(slim("status", "--format", "json").stdout)
    assert one["sweep"] == "mine" and [job["state"] for job in one["jobs"]] == ["done", "failed"]
    assert one["jobs"][1]["reason"] == "ModelError: NaN"
    assert json.loads(slim("show", done["key"][:12], "--format", "json").stdout) == done
    held = json.loads(slim("cache", "--format", "json").stdout)
    assert held["stages"] == [] and held["folder"].endswith("stages") and held["limit_bytes"] > 0


def test_the_help_lists_every_command_in_its_order_with_whole_sentences():
    from slimsweep.cli import slim

    command = typer.main.get_command(slim.app)
    shown = command.get_help(command.context_class(command, info_name="slim", terminal_width=120))
    lines = shown[shown.index("Commands:") :].splitlines()[1:]
    assert [line.split()[0] for line in lines] == [command.__name__ for command in slim.COMMANDS]
    assert not [line for line in lines if line.endswith("...")]
    defined = {command.callback for command in slim.app.registered_commands}
    here = {one for one in vars(slim).values() if getattr(one, "__module__", "") == slim.__name__ and callable(one)}
    assert {one for one in here if not one.__name__.startswith("_")} - {slim.Slim} <= defined
