import multiprocessing
import os

import pytest
from small_jobs import contents

from slimsweep.errors import StoreError
from slimsweep.records.store import Store, SweepJob

KEY = "ab" * 32
OTHER = "cd" * 32


def job(key):
    return SweepJob(key, f"job {key[:2]}", ["ratio=0.5"])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_record_is_found_by_key_and_by_prefix(store):
    path = store.write({"key": KEY, "x": 1}, layers=[])
    assert path.is_file() and (path.parent / "layers.json").is_file()
    assert store.read(KEY) == store.find("abab") == store.find(KEY) == {"key": KEY, "x": 1}
    assert store.read(OTHER) is None


@pytest.mark.parametrize("prefix", ["ac", "", "ab" * 31 + "ff"])
def test_an_unknown_prefix_is_an_error_naming_the_next_command(store, prefix):
    store.write({"key": KEY}, layers=[])
    with pytest.raises(StoreError, match="slim table"):
        store.find(prefix)


def test_an_ambiguous_prefix_names_the_candidates(store):
    for key in (KEY, "ab" + "00" * 31):
        store.write({"key": key}, layers=[])
    with pytest.raises(StoreError, match="several.*ab00.*abab"):
        store.find("ab")


def test_status_tells_done_failed_and_missing(store):
    store.open_sweep("s", [job(KEY), job(OTHER), job("ef" * 32)])
    store.write({"key": KEY}, layers=[])
    store.write_failure(OTHER, "ValueError: too small")
    states = [(status.state, status.reason) for status in store.status("s")]
    assert states == [("done", ""), ("failed", "ValueError: too small"), ("missing", "")]


def test_a_success_removes_the_failure_before_it(store):
    store.write_failure(KEY, "x")
    store.write({"key": KEY}, layers=[])
    assert not (store.folder(KEY) / "failure.json").exists()


def _hold(folder, started, end):
    with Store(folder).claim(KEY):
        started.set()
        end.wait(30)


def test_a_claimed_key_is_running_until_its_process_is_killed(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    started, end = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, started, end))
    holder.start()
    assert started.wait(30)
    store.open_sweep("s", [job(KEY)])
    assert [status.state for status in store.status("s")] == ["running"]
    holder.kill()
    holder.join()
    assert [status.state for status in store.status("s")] == ["missing"]


def test_a_sweep_keeps_its_own_list_and_loses_completeness_when_it_changes(store):
    store.open_sweep("s", [job(KEY)])
    store.write({"key": KEY}, layers=[])
    complete = store.close_sweep("s", [job(KEY)])
    store.open_sweep("s", [job(KEY)])
    assert complete.is_file()
    store.open_sweep("s", [job(KEY), job(OTHER)])
    assert not complete.is_file()
    assert store.sweeps_of(KEY) == ["s"]
    assert [record["key"] for record in store.sweep_records("s")] == [KEY]


def test_an_unknown_sweep_names_the_known_ones_and_the_command(store):
    store.open_sweep("dense", [job(KEY)])
    with pytest.raises(StoreError, match=r"known: dense.*slimsweep \+sweeps=other"):
        store.sweep_jobs("other")


def test_a_file_in_the_way_is_a_fault_that_names_the_setting(tmp_path):
    (tmp_path / "outputs").write_text("")
    assert "outputs_dir=FOLDER" in Store(tmp_path / "outputs").fault()


def test_too_little_space_is_a_fault(store, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "1 MiB free" in store.fault()


@pytest.mark.parametrize("content", [b"", b'{"key": "ab', b"[]", b"null", b"{}", b"\0" * 64, b"\xff"])
def test_a_damaged_record_counts_as_missing_and_is_named_once(store, caplog, content):
    store.write({"key": OTHER}, layers=[])
    path = store.write({"key": KEY}, layers=[])
    path.write_bytes(content)
    store.open_sweep("s", [job(KEY), job(OTHER)])
    assert [record["key"] for record in store.records()] == [OTHER] == [r["key"] for r in store.sweep_records("s")]
    assert store.read(KEY) is None and [status.state for status in store.status("s")] == ["missing", "done"]
    with pytest.raises(StoreError, match="no record starts with 'abab'"):
        store.find("abab")
    assert caplog.text.count(f"{path} is damaged and counts as missing") == 1
    store.write({"key": KEY, "x": 1}, layers=[])
    assert store.read(KEY) == {"key": KEY, "x": 1}


@pytest.mark.parametrize("content", ["", '{"rea', "{}", '"text"'])
def test_a_damaged_failure_leaves_the_job_missing(store, caplog, content):
    store.open_sweep("s", [job(KEY)])
    store.write_failure(KEY, "ValueError: too small")
    (store.folder(KEY) / "failure.json").write_text(content)
    assert [(status.state, status.reason) for status in store.status("s")] == [("missing", "")]
    assert "failure.json is damaged" in caplog.text


@pytest.mark.parametrize("content", ["", '[{"key": "', "{}", "[1]", '[{"key": "a"}]'])
def test_a_damaged_list_of_jobs_costs_its_own_sweep_only(store, caplog, content):
    for name in ("good", "bad"):
        store.open_sweep(name, [job(KEY)])
    (store.sweeps_dir / "bad" / "jobs.json").write_text(content)
    assert store.sweep_names() == ["good"] == store.sweeps_of(KEY)
    with pytest.raises(StoreError, match=r"bad/jobs\.json is damaged \(known: good\)\. Run: slimsweep \+sweeps=bad"):
        store.sweep_jobs("bad")
    assert caplog.text.count("counts as missing") == 1
    store.open_sweep("bad", [job(KEY)])
    assert store.sweep_names() == ["bad", "good"]


def test_reading_changes_nothing_and_takes_no_lock_to_write(store, tmp_path, monkeypatch):
    with store.claim(OTHER):
        pass
    (store.folder("ef" * 32)).mkdir()
    (store.folder("ef" * 32) / ".lock").symlink_to("nowhere")
    store.open_sweep("s", [job(KEY), job(OTHER), job("ef" * 32)])
    before = contents(tmp_path)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "replace"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr("slimsweep.records.store.FileLock", refused)
    assert [status.state for status in store.status("s")] == ["missing"] * 3
    assert store.records() == [] and store.sweep_names() == ["s"] and not store.is_claimed("12" * 32)
    assert contents(tmp_path) == before
