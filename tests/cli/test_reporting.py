import re

import pytest
from conftest import PROJECT
from made_up import curve, record, sweep
from typer.testing import CliRunner

from slimsweep.cli.slim import app
from slimsweep.records.store import Store


@pytest.fixture
def slim(tmp_path):
    sweep(Store(tmp_path), "mine", [record(), *curve("wanda")])
    return lambda *words: CliRunner().invoke(app, ["report", *words, "--no-figures", "--outputs", str(tmp_path)])


def test_markdown_is_written_where_the_name_says_so(slim, tmp_path):
    result = slim("mine", "--output", str(tmp_path / "notes.md"))
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "notes.md")
    assert (tmp_path / "notes.md").read_text().startswith("# Sweep mine\n")


def test_without_an_output_the_report_lies_in_the_output_folder(slim, tmp_path):
    pytest.importorskip("plotly", reason="plotly is not installed")
    assert slim("mine").stdout.strip() == str(tmp_path / "reports" / "mine.html")
    assert (tmp_path / "reports" / "mine.html").read_text().startswith("<!DOCTYPE html>")


def test_a_file_is_replaced_only_when_told_to(slim, tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("mine")
    refused = slim("mine", "--output", str(path))
    assert refused.exit_code == 1 and "is there already" in refused.stderr and path.read_text() == "mine"
    assert slim("mine", "--output", str(path), "--overwrite").exit_code == 0 and path.read_text() != "mine"
    folder = slim("mine", "--output", str(tmp_path), "--overwrite")
    assert folder.exit_code == 1 and "is a folder" in folder.stderr


def test_figures_of_markdown_lie_beside_it(slim, tmp_path):
    words = ["report", "mine", "--output", str(tmp_path / "notes.md"), "--outputs", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert (tmp_path / "notes_figures" / "ratio_curve_wikitext2.png").is_file()
    assert "](notes_figures/ratio_curve_wikitext2.png)" in (tmp_path / "notes.md").read_text()
    (tmp_path / "notes.md").unlink()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1 and "notes_figures is there already" in again.stderr


def test_a_report_of_nothing_is_one_line(slim, tmp_path):
    result = slim("other", "--output", str(tmp_path / "notes.md"))
    assert result.exit_code == 1 and "no sweep 'other' was launched here" in result.stderr
    assert not (tmp_path / "notes.md").exists()


def test_the_commands_of_its_page_run(tmp_path, monkeypatch):
    """Each line that docs/report.md shows, in an empty folder."""
    pytest.importorskip("plotly", reason="plotly is not installed")
    monkeypatch.chdir(tmp_path)
    for name in ("unstructured", "quantized"):
        sweep(Store(tmp_path / "outputs"), name, [record()])
    commands = re.findall(r"^slim (report [^#\n]+)", (PROJECT / "docs" / "report.md").read_text(encoding="utf-8"), re.M)
    assert len(commands) == 4
    for command in commands:
        result = CliRunner().invoke(app, [*command.split(), "--outputs", str(tmp_path / "outputs")])
        assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.glob("*")} >= {"both.html", "notes.md"}
    assert (tmp_path / "outputs" / "reports" / "unstructured.html").is_file()
