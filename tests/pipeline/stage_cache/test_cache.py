"""What stays in the cache and what goes; two processes at once; a process killed while it writes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT
from filelock import FileLock
from stages import SMALL, comparable, experiment, restored

from slimsweep.errors import StoreError
from slimsweep.models.language_model import weights_digest
from slimsweep.pipeline.chain import compress
from slimsweep.pipeline.keys import StageKey
from slimsweep.pipeline.stage_cache import entry as stage_entry
from slimsweep.pipeline.stage_cache.cache import DEFAULT_LIMIT_BYTES, StageCache, limit_of
from slimsweep.records.record import results
from slimsweep.records.store import Store

STATE = {"stages": [{"seconds": 1.5}]}
SIZE = 110_000
"""An entry of the tiny model takes a little more than its 95,104 bytes of weights and less than this."""


def key(name: str) -> StageKey:
    return StageKey(name * 64, ({"name": name},), "tiny", f"chain {name}")


@pytest.fixture
def opened(tmp_path):
    """Make a cache as a new job does; one folder for all."""

    def make(limit_bytes: int = DEFAULT_LIMIT_BYTES) -> StageCache:
        cache = StageCache(tmp_path / "cache", limit_bytes)
        assert cache.open() is None
        return cache

    return make


def held(cache: StageCache) -> str:
    """The first letters of what a cache holds, in order of the alphabet."""
    return "".join(sorted(entry.digest[0] for entry in cache.entries()))


def age(cache: StageCache, name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.folder / (name * 64) / "used", (then, then))


def test_what_was_unused_for_longest_makes_room(opened, tiny):
    for place, name in enumerate("abc"):
        opened(3 * SIZE).keep(key(name), tiny, STATE, 9.0)
        age(opened(3 * SIZE), name, 100 - place)
    opened(3 * SIZE).read(key("a"))  # used now
    cache = opened(3 * SIZE)
    assert cache.keep(key("d"), tiny, STATE, 9.0).startswith("kept")
    assert held(cache) == "acd"
    assert [entry.chain for entry in cache.entries()] == ["chain d", "chain a", "chain c"]


def test_a_job_evicts_nothing_that_it_uses(opened, tiny):
    cache = opened(2 * SIZE)
    for name in "ab":
        cache.keep(key(name), tiny, STATE, 9.0)
    assert cache.keep(key("c"), tiny, STATE, 9.0) == "not kept: with what is in use the cache would exceed 0.2 MB"
    assert held(cache) == "ab"


def test_a_lower_limit_holds_from_the_next_job_on(opened, tiny):
    for place, name in enumerate("abc"):
        opened().keep(key(name), tiny, STATE, 9.0)
        age(opened(), name, 100 - place)
    with opened().claim(key("b")):
        assert held(opened(2 * SIZE)) == "bc"
        assert held(opened(SIZE)) == "b"
    assert held(opened(SIZE // 2)) == ""


def test_what_another_process_wrote_meanwhile_makes_room_too(opened, tiny, monkeypatch):
    opened().keep(key("a"), tiny, STATE, 9.0)
    age(opened(), "a", 100)
    cache, write = opened(2 * SIZE), stage_entry.write

    def overtaken(*arguments):
        monkeypatch.setattr(stage_entry, "write", write)
        assert opened(2 * SIZE).keep(key("b"), tiny, STATE, 9.0).startswith("kept")
        assert held(cache) == "ab"
        write(*arguments)

    monkeypatch.setattr(stage_entry, "write", overtaken)
    with cache.claim(key("c")):
        assert cache.keep(key("c"), tiny, STATE, 9.0).startswith("kept")
    assert held(cache) == "bc"


def test_what_another_process_holds_is_not_evicted(opened, tiny):
    for name, seconds in (("a", 100), ("b", 50)):
        opened().keep(key(name), tiny, STATE, 9.0)
        age(opened(), name, seconds)
    with opened().claim(key("a")):
        cache = opened(2 * SIZE)
        cache.keep(key("c"), tiny, STATE, 9.0)
        assert held(cache) == "ac"


def test_what_is_larger_than_the_limit_is_not_kept_and_evicts_nothing(opened, tiny):
    opened().keep(key("a"), tiny, STATE, 9.0)
    cache = StageCache(opened().folder.parent, 50_000)
    assert cache.keep(key("b"), tiny, STATE, 9.0) == "not kept: its 0.1 MB are more than cache_limit_gb=5e-05"
    assert held(cache) == "a"


def test_what_takes_less_to_compute_than_to_read_is_not_kept(opened, tiny):
    cache = opened()
    size = sum(parameter.nbytes for parameter in tiny.module.parameters())
    assert "quicker" in cache.keep(key("a"), tiny, STATE, 0.99 * size / 100e6)
    assert held(cache) == ""
    assert cache.keep(key("a"), tiny, STATE, 1.01 * size / 100e6) == "kept, 0.1 MB"


def test_the_limit_of_the_last_job_is_remembered(opened, tmp_path):
    opened()
    assert limit_of(tmp_path / "cache" / "stages") == DEFAULT_LIMIT_BYTES == 10_000_000_000
    opened(123)
    assert limit_of(tmp_path / "cache" / "stages") == 123


def test_clearing_leaves_what_a_job_holds(opened, tiny):
    for name in "ab":
        opened().keep(key(name), tiny, STATE, 9.0)
    with opened().claim(key("b")):
        removed, left = opened().clear()
    assert [entry.chain for entry in removed] == ["chain a"] and [entry.chain for entry in left] == ["chain b"]
    assert held(opened()) == "b"


def test_a_folder_that_cannot_be_cleared_says_so(opened, tiny, monkeypatch):
    opened().keep(key("a"), tiny, STATE, 9.0)

    def refuse(_path, _target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StoreError, match="cannot be cleared: .*Permission denied"):
        opened().clear()


def test_leftovers_of_killed_processes_are_removed_and_those_of_living_ones_stay(opened):
    cache = opened()
    for name in ("." + "a" * 64 + ".partial", "." + "b" * 64 + ".gone", "." + "c" * 64 + ".partial"):
        (cache.folder / name).mkdir()
        (cache.folder / name / "model.safetensors").write_text("half")
    with FileLock(cache.folder / "locks" / f"{'c' * 64}.lock"):
        again = opened()
        assert sorted(path.name for path in again.folder.iterdir()) == ["." + "c" * 64 + ".partial", "locks"]
    assert [path.name for path in opened().folder.iterdir()] == ["locks"]
    assert cache.entries() == []


SLOW_WRITE = """
import pathlib, sys, time
from slimsweep.cli import app; from slimsweep.pipeline.stage_cache import entry as stage_entry
whole = stage_entry.save_with_manifest
def slowly(model, folder):
    whole(model, folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])
    print("writing", flush=True)
    time.sleep(60)
stage_entry.save_with_manifest = slowly
app.main()
"""


def launched(tmp_path: Path, outputs: str, *arguments: str, code: str | None = None) -> subprocess.Popen:
    own = ("dtype=float32", f"outputs_dir={tmp_path / outputs}", f"cache_dir={tmp_path / 'cache'}")
    start = ["-c", code] if code else ["-m", "slimsweep.cli.app"]
    return subprocess.Popen(
        [sys.executable, *start, *arguments, *SMALL, *own],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "SLIMSWEEP_DATA": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_job_killed_while_it_writes_harms_no_later_one(tmp_path):
    process = launched(tmp_path, "killed", "technique=sparsegpt", code=SLOW_WRITE)
    assert any(line == "writing\n" for line in process.stdout)
    process.kill()
    process.communicate()
    (left,) = (tmp_path / "cache" / "stages").glob(".*.partial")
    assert (left / "model.safetensors").is_file()
    made = experiment(tmp_path / "cache", "technique=sparsegpt", "dtype=float32")
    found = compress(made)
    assert restored(found) == [False] and not left.exists()
    assert comparable(found) == comparable(
        compress(experiment(tmp_path, "technique=sparsegpt", "dtype=float32", "cache=off"))
    )
    assert restored(compress(made)) == [True]


def test_two_sweeps_at_once_compute_each_stage_once_and_right(tmp_path):
    sweep = ("-m", "technique=sparsegpt,[sparsegpt,rtn],[sparsegpt,magnitude]")
    processes = [launched(tmp_path, name, *sweep) for name in ("one", "two")]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    logs = [path.read_text() for name in ("one", "two") for path in (tmp_path / name / "records").glob("*/job.log")]
    assert len(logs) == 6
    for label in ("sparsegpt", "rtn", "magnitude"):
        computed = sum(log.count(f"{label}: computed") for log in logs)
        known = sum(log.count(f"{label}: restored") for log in logs)
        assert (computed, known) == ((1, 5) if label == "sparsegpt" else (1, 1))
    one, two = ([results(record) for record in Store(tmp_path / name).records()] for name in ("one", "two"))
    assert one == two and len(one) == 3
    for chain in ("sparsegpt", "[sparsegpt,rtn]", "[sparsegpt,magnitude]"):
        done = compress(experiment(tmp_path, f"technique={chain}", "dtype=float32", "cache=off"))
        assert weights_digest(done.model) in {record["weights_digest"] for record in one}


def test_a_sweep_after_another_prunes_nothing_again(slimsweep, tmp_path):
    own = ("-m", *SMALL, "cache=on", f"cache_dir={tmp_path / 'cache'}", "dtype=float32", "ratio=0.3,0.5")
    assert slimsweep(*own, "technique=sparsegpt", "sweep=unstructured").status == 0
    assert slimsweep(*own, "technique=sparsegpt,[sparsegpt,rtn]", "sweep=quantized").status == 0
    store = Store(tmp_path / "outputs")
    chained = [record for record in store.sweep_records("quantized") if record["technique"] == "sparsegpt+rtn"]
    assert len(chained) == 2 and len(store.records()) == 4
    for record in chained:
        log = (store.folder(record["key"]) / "job.log").read_text()
        assert "sparsegpt: restored" in log and "sparsegpt: comput" not in log and "sparsegpt: compress" not in log
        assert "rtn: computed" in log
        assert [stage["restored"] for stage in record["stages"]] == [True, False]
        alone = next(one for one in store.sweep_records("unstructured") if one["ratio"] == record["ratio"])
        assert record["stages"][0]["seconds"] == alone["stages"][0]["seconds"]
        assert record["compress_seconds"] == sum(stage["seconds"] for stage in record["stages"])
        assert record["compress_spent_seconds"] > 0


@pytest.mark.slow
def test_pruning_known_the_compression_of_smollm2_takes_less_than_half(slimsweep, smollm2, tmp_path):
    job = (
        "evaluation=cost",
        "tracker=none",
        "technique=[sparsegpt,nf4]",
        "cache=on",
        f"cache_dir={tmp_path / 'cache'}",
    )
    slimsweep(*job[:2], "technique=sparsegpt", *job[3:])
    taken = {}
    for name, cache in (("known", "on"), ("off", "off")):
        answer = slimsweep(*job[:3], f"cache={cache}", job[4], f"outputs_dir={tmp_path / name}")
        record = json.loads(Path(answer.out.strip().splitlines()[-1]).read_text())
        taken[name] = record["compress_spent_seconds"]
    assert taken["known"] < taken["off"] / 2
