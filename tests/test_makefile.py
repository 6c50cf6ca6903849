"""Rules of the Makefile for figures: they follow from what each figure declares."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT

from slimsweep.figures import known

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def plan(target: str, folder: Path = PROJECT, outputs: str = "/nowhere/outputs") -> str:
    """What make would run for a target, with no sweep run yet."""
    environment = os.environ | {"SLIMSWEEP_OUTPUTS": outputs}
    answer = subprocess.run(
        ["make", "-n", "-C", str(folder), target], env=environment, capture_output=True, text=True, check=False
    )
    return answer.stdout + answer.stderr


@pytest.mark.parametrize("name", known()[0])
def test_a_figure_comes_after_the_sweeps_it_declares(name):
    sweeps = known()[0][name].SWEEPS
    text = plan(f"/nowhere/outputs/figures/{name}_movie_reviews.pdf")
    assert [line.split("+sweeps=")[1].split()[0] for line in text.splitlines() if "+sweeps=" in line] == list(sweeps)
    assert f"slim figures {name}_movie_reviews\n" in text


def test_on_another_corpus_a_figure_reads_the_same_sweeps_measured_there():
    text = plan("/nowhere/outputs/figures/structured_vs_unstructured_ptb.pdf")
    for sweep in ("unstructured", "structured"):
        assert f"slimsweep +sweeps={sweep} sweep={sweep}_ptb 'evaluation.corpora=[ptb]'" in text
    assert "slim figures structured_vs_unstructured_ptb --sweep unstructured_ptb --sweep structured_ptb\n" in text


def test_a_new_figure_has_its_rules_without_an_edit(tmp_path):
    shutil.copy(PROJECT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    shutil.copytree(PROJECT / "sweeps", tmp_path / "sweeps")
    folder = tmp_path / "src" / "slimsweep" / "figures"
    folder.mkdir(parents=True)
    (folder / "toy_curve.py").write_text('SWEEPS = ("patterns", "seeds")\n')
    (folder / "toy.py").write_text('SWEEPS = ("dense",)\n')
    text = plan("outputs/figures/toy_curve_speed_c4.pdf", tmp_path, "outputs")
    assert "+sweeps=patterns sweep=patterns_c4" in text and "+sweeps=seeds sweep=seeds_c4" in text
    assert "slim figures toy_curve_speed_c4 --sweep patterns_c4 --sweep seeds_c4\n" in text
    assert "+sweeps=dense\n" in plan("outputs/figures/toy_c5.pdf", tmp_path, "outputs").replace(" \n", "\n")


def test_an_unknown_figure_is_told_before_anything_is_run(tmp_path):
    text = plan("/nowhere/outputs/figures/ratio_curv_c4.pdf")
    assert "there is no figure ratio_curv_c4" in text and "slimsweep +sweeps" not in text


def test_golden_numbers_stay_until_new_ones_are_written():
    text = plan("golden-renew")
    assert "rm -f tests/golden/numbers.json.new\n" in text and "numbers.json &&" not in text.split("mv ")[0]
    assert "--keep tests/golden/numbers.json.new" in text
    assert "&& mv tests/golden/numbers.json.new tests/golden/numbers.json\n" in text
