"""slim amend on a finished sweep of a small random model: exactly the missing work runs, as the log tells."""

import re

import pytest
from small_jobs import SMALL

from slimsweep.cli.amending import words_of
from slimsweep.errors import StoreError
from slimsweep.records.store import Store, SweepJob

MORE = (
    "+metric=fidelity",
    "evaluation.metrics.fidelity.context_tokens=64",
    "evaluation.metrics.fidelity.max_windows=2",
)


def measured(store, keys) -> list[str]:
    """What the logs of some records say was measured, in order."""
    logs = [(store.folder(key) / "job.log").read_text() for key in keys]
    return [name for log in logs for name in re.findall(r"run: (.+): measuring", log)]


def test_a_metric_is_added_and_nothing_else_runs_then_a_seed(slim, slimsweep, tmp_path):
    store = Store(tmp_path / "outputs")
    words = ["-m", *(word for word in SMALL if not word.startswith("evaluation.")), "technique=[],random", "ratio=0.5"]
    words += ["evaluation=cost", "+metric=perplexity", "evaluation.metrics.perplexity.context_tokens=64"]
    words += ["evaluation.metrics.perplexity.max_windows=2", "sweep=mine"]
    assert slimsweep(*words).status == 0
    before = [job.key for job in store.sweep_jobs("mine")]
    done = measured(store, before)
    assert sorted(set(done)) == ["cost", "perplexity", "size"]

    told = slim("amend", "mine", *MORE, "dry_run=true")
    assert told.exit_code == 0, told.output
    assert told.stdout.count(": only fidelity") == 2 and "2 of 2 jobs lack something" in told.stdout
    assert measured(store, before) == done

    added = slim("amend", "mine", *MORE)
    assert added.exit_code == 0, added.output
    assert measured(store, before) == [*_of(done, 0), "fidelity", *_of(done, 1), "fidelity"]
    assert [job.key for job in store.sweep_jobs("mine")] == before
    records = store.sweep_records("mine")
    assert all(record["top_agreement_movie_reviews"] is not None for record in records)

    again = slim("amend", "mine", *MORE, "seed=0,1")
    assert again.exit_code == 0 and "1 of 3 jobs lack something" in again.stdout, again.output
    (new,) = [job.key for job in store.sweep_jobs("mine") if job.key not in before]
    assert measured(store, before) == [*_of(done, 0), "fidelity", *_of(done, 1), "fidelity"]
    assert set(measured(store, [new])) == {"cost", "size", "perplexity, fidelity"}


def _of(done: list[str], part: int) -> list[str]:
    """The half of a list: two jobs measured the same."""
    half = len(done) // 2
    return done[part * half : (part + 1) * half]


def test_what_is_no_setting_or_names_another_sweep_is_refused(tmp_path):
    store = Store(tmp_path)
    store.open_sweep("mine", [SweepJob("ab" * 32, "job", ["ratio=0.5"])])
    assert words_of(store, "mine", ["seed=1"])[-1] == "seed=1"
    assert words_of(store, "mine", [], tmp_path)[:2] == ["--config-dir", str(tmp_path)]
    for words, message in ((["fidelity"], "KEY=VALUE"), (["sweep=other"], "launch slimsweep for another")):
        with pytest.raises(StoreError, match=message):
            words_of(store, "mine", words)
    with pytest.raises(StoreError, match="known: mine"):
        words_of(store, "nope", [])
