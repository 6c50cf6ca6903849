import pytest
from small_datasets import SHORT, write_rows

from slimsweep.progress import tracked, watched_by


@pytest.fixture
def mine(tmp_path):
    write_rows(tmp_path, "rows.jsonl", [*SHORT["text"], {"text": "one"}])
    (tmp_path / "mine.yaml").write_text("kind: text\nsplits: {train: {files: [rows.jsonl]}}\n")
    return str(tmp_path / "mine.yaml")


def test_without_a_name_the_datasets_are_listed(slim):
    result = slim("prepare")
    assert result.exit_code == 0 and "sst2" in result.stdout and "labelled" in result.stdout
    assert result.stdout.splitlines()[-1] == "prepare one: slim prepare NAME"


def test_the_counts_are_printed_and_the_folder_last(slim, mine, tmp_path):
    result = slim("prepare", mine, "--data-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any("duplicates" in line and "3 (-1)" in line for line in lines)
    assert lines[-1].startswith(str(tmp_path / "outputs" / "cache" / "prepared" / "mine"))
    again = slim("prepare", mine, "--data-dir", str(tmp_path))
    assert "prepared before by equal settings from equal sources" in again.stdout
    assert again.stdout.splitlines()[-1] == lines[-1]
    unseen = slim("prepare", mine)
    assert "from equal sources" not in unseen.stdout
    assert f"train: sources were not looked at now; it was read from {tmp_path / 'rows.jsonl'}" in unseen.stdout
    assert unseen.stdout.splitlines()[-1] == lines[-1]


def test_settings_lead_to_a_folder_with_a_name_of_its_own(slim, mine, tmp_path):
    plain = slim("prepare", mine, "--data-dir", str(tmp_path)).stdout.splitlines()[-1]
    lower = slim("prepare", mine, "normalisation=[lowercase]", "filters.words=[1,9]", "--data-dir", str(tmp_path))
    assert lower.stdout.splitlines()[-1] != plain
    key = lower.stdout.splitlines()[-1].rpartition("/")[2]
    assert f"other rows than those of its file: name them {mine}@{key}" in lower.stdout


def test_faults_are_told_together_with_status_1(slim, tmp_path):
    result = slim("prepare", "sst2", "tokeniser=3", "filter=[1]")
    assert result.exit_code == 1 and not result.stdout
    assert "2 faults; nothing was started." in result.stderr and "Did you mean: tokenizer" in result.stderr
    unknown = slim("prepare", "sst3")
    assert unknown.exit_code == 1 and "Did you mean: sst2" in unknown.stderr


def test_long_work_is_told_in_lines(capsys, monkeypatch):
    from slimsweep.cli import preparation

    monkeypatch.setattr(preparation, "SECONDS_BETWEEN_LINES", 0)
    with watched_by(preparation.Lines()):
        list(tracked([1, 2], "encoding, train"))
    assert capsys.readouterr().err.splitlines()[:2] == ["encoding, train 0 of 2", "encoding, train 1 of 2"]
