"""slim compare --against: numbers that moved, on records of real jobs of a small random model."""

import json

import pytest
from small_jobs import SMALL
from typer.testing import CliRunner

from slimsweep.cli.slim import app


@pytest.fixture
def slim(tmp_path):
    return lambda *words: CliRunner().invoke(app, ["compare", *words, "--outputs", str(tmp_path / "outputs")])


@pytest.fixture
def numbers(slimsweep, slim, tmp_path):
    """File of the numbers of the sweep `mine`: dense, and magnitude at 0.5."""
    slimsweep("-m", *SMALL, "technique=[],magnitude", "ratio=0.5", "sweep=mine")
    kept = slim("mine", "--keep", str(tmp_path / "numbers.json"))
    assert kept.exit_code == 0 and "numbers of 2 records" in kept.stdout, kept.stderr
    return tmp_path / "numbers.json"


def test_numbers_of_the_same_version_have_not_moved(slim, numbers, tmp_path):
    for words in (["mine", "--against", str(numbers)], ["--against", str(tmp_path / "outputs")]):
        found = slim(*words, "--fail")
        assert found.exit_code == 0 and "of 2 records compared: 0 moved" in found.stdout, found.stderr


def test_a_moved_number_is_named_and_fails_only_when_asked(slim, numbers):
    records = json.loads(numbers.read_text())
    records[1]["weight_bytes"] += 1
    numbers.write_text(json.dumps(records))
    assert slim("--against", str(numbers)).exit_code == 0
    failed = slim("--against", str(numbers), "--fail")
    assert failed.exit_code == 1 and "weight_bytes" in failed.stdout and "magnitude 0.5" in failed.stdout
    assert slim("--against", str(numbers), "--fail", "--tolerance", "weight_bytes=0.01").exit_code == 0
    (move,) = json.loads(slim("--against", str(numbers), "--format", "json").stdout)["moves"]
    assert move["field"] == "weight_bytes" and move["before"] == move["now"] + 1


def test_options_that_do_not_go_together_are_refused(slim, numbers):
    for words, told in (
        (["mine", "other", "--moved", "--against", str(numbers)], "a second name (other)"),
        (["mine", "--fail", "--holm", "--against", str(numbers)], "--holm asks for a comparison item by item"),
        (["mine", "--keep", "new.json", "--fail"], "only writes a file"),
        (["--fail"], "nothing to compare the records with"),
        (["mine", "--keep", str(numbers)], "nothing is overwritten"),
        (["mine", "nosuch", "--against", str(numbers)], "a second name (nosuch)"),
        (["mine", "--holm", "--against", str(numbers)], "--holm asks for a comparison item by item"),
        (["--margin", "perplexity_*=0.1", "--against", str(numbers.parent / "outputs")], "--margin asks for"),
        (["--against", str(numbers), "--tolerance", "nosuchfield=2"], "no record has such a field"),
    ):
        answer = slim(*words)
        assert answer.exit_code != 0 and told in " ".join(answer.stderr.replace("│", " ").split()), answer.stderr
