import json
import re

import pytest
from conftest import PROJECT
from made_up import chain, curve, record, sweep
from typer.testing import CliRunner

from slimsweep.cli.slim import app
from slimsweep.records.store import Store, SweepJob


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    trained = {"weights": "trained"}
    sweep(
        store,
        "mine",
        [record(**trained), *curve("wanda", **trained), chain("rtn", perplexity_wikitext2=11.0, **trained)],
    )
    return store


@pytest.fixture
def slim(store):
    return lambda *words: CliRunner().invoke(app, ["recommend", *words, "--outputs", str(store.outputs_dir)])


def test_the_choice_its_reasons_and_its_command_are_printed(slim, store):
    result = slim("mine", "--max-bytes", "1MiB")
    assert result.exit_code == 0, result.stderr
    key = next(one["key"] for one in store.records() if one["technique"] == "rtn")
    assert result.stdout.startswith(f"**rtn** ({key[:8]})")
    assert f"slim export {key[:16]} --to hf --output exports/{key[:8]} --outputs {store.outputs_dir}" in result.stdout


def test_json_is_one_document(slim):
    found = json.loads(slim("mine", "--max-perplexity-increase", "20%", "--format", "json").stdout)
    assert found["choice"]["title"] == "rtn" and found["quality"] == "perplexity_wikitext2"
    assert json.loads(slim("--device", "phone_4gb", "--format", "json").stdout)["choice"]["title"] == "dense"


def test_budgets_that_cannot_be_met_or_read_are_one_line(slim):
    for words, expected in (
        (["--max-bytes", "1kB"], "The nearest is rtn"),
        (["--max-bytes", "much"], "such as 80MB"),
        (["--max-latency", "50ms"], "no record measured latency"),
        (["--device", "toaster"], "there is no device 'toaster'"),
        ([], "give a budget"),
    ):
        result = slim("mine", *words)
        assert result.exit_code == 1 and expected in result.stderr and result.stderr.count("\n") == 1, words


def test_missing_jobs_are_told_beside_the_answer(slim, store):
    store.open_sweep("mine", [*store.sweep_jobs("mine"), SweepJob("f" * 64, "missing", [])])
    result = slim("mine", "--max-bytes", "1MiB")
    assert result.exit_code == 0 and "mine: 1 jobs have no record yet" in result.stderr


def test_the_commands_of_its_page_run(store, slim):
    """Each line that docs/recommend.md shows, on records that measured what it bounds."""
    measured = [
        one | {"gmacs": 1.0 + place, "prefill_seconds": 0.01, "weight_bytes": 10**7, "threads": 1}
        for place, one in enumerate(store.records())
    ]
    for name in ("unstructured", "quantized"):
        sweep(store, name, measured)
    text = (PROJECT / "docs" / "recommend.md").read_text(encoding="utf-8")
    commands = re.findall(r"^slim recommend ([^#\n]+)", text, re.M)
    assert len(commands) == 8
    for command in commands:
        assert slim(*command.split()).exit_code == 0, command
