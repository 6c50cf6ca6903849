"""The sweeps of the paper, planned on shapes alone: how many jobs, and which are one experiment."""

import pytest
from conftest import PROJECT

SHAPES = ("model=llama_2_7b", "model.weights=meta", "evaluation=cost", "dry_run=true")
JOBS = {
    "dense": 1,
    "structured": 9,
    "structured_block": 5,
    "structured_channel": 5,
    "structured_methods": 26,
    "unstructured": 28,
    "patterns": 10,
    "quantized": 28,
    "bits": 17,
    "order": 23,
    "twice": 37,
    "selective": 6,
    "eight_categories": 18,
    "engines": 25,
    "recovery": 33,
    "distillation": 27,
    "reasoning": 5,
    "domain": 4,
    "workflow": 8,
    "low_rank": 43,
    "learned_bits": 16,
    "zero_shot": 7,
    "calibration": 5,  # of 53, and 17 of 39: on one model and on shapes many are one experiment
    "counts": 17,
    "seeds": 5,  # of 13: chance decides nothing on shapes alone, so three seeds are one experiment
}


PREPARED = {
    "bert_sst2": ("sst2",),
    "translation": ("multi30k",),
    "summarization": ("cnn_dailymail_slice",),
    "slim_transform": ("slimorca", "model=random"),
}
"""Sweeps that read a prepared dataset, and words that make them quick to refuse."""
ON_A_HUB = {"translation_marian"}


def test_every_sweep_file_is_planned_here():
    assert {path.stem for path in (PROJECT / "sweeps").glob("*.yaml")} == {*JOBS, *PREPARED, *ON_A_HUB}


@pytest.mark.parametrize("name", PREPARED)
def test_a_sweep_on_a_dataset_tells_the_command_that_prepares_it(slimsweep, name):
    dataset, *words = PREPARED[name]
    answer = slimsweep("dry_run=true", f"+sweeps={name}", *words)
    assert answer.status == 1 and f"slim prepare {dataset}" in answer.err


@pytest.mark.parametrize(("name", "jobs"), JOBS.items())
def test_a_sweep_plans_its_distinct_experiments_from_any_folder(
    slimsweep, name, jobs, tmp_path, monkeypatch, sparseml_environment
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slimsweep.techniques.external.sparseml.ENVIRONMENT", sparseml_environment)
    answer = slimsweep(*SHAPES, f"+sweeps={name}")
    assert f"{name}: {jobs} jobs, 0 done, {jobs} to run" in answer.out, answer.err


def test_a_value_on_the_command_line_replaces_a_grids_key(slimsweep):
    answer = slimsweep(*SHAPES, "+sweeps=unstructured", "ratio=0.5")
    assert "unstructured: 4 jobs" in answer.out
    answer = slimsweep(*SHAPES, "+sweeps=unstructured", "technique=wanda")
    assert "unstructured: 9 jobs" in answer.out  # the baseline's grid asks for wanda at the default 0.5, which is there


def test_an_ordinary_multirun_is_one_product(slimsweep):
    answer = slimsweep("-m", *SHAPES, "technique=wanda,[magnitude,wanda],[]", "ratio=0.3,0.5")
    assert "multirun: 5 jobs" in answer.out  # the baseline has no ratio


def test_a_sweep_may_inherit_another(slimsweep, tmp_path):
    folder = tmp_path / "own" / "sweeps"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - unstructured\n  - _self_\nsweep: mine\nhydra:\n  sweeper:\n    grids:\n"
        "      - {technique: wanda, ratio: '0.25,0.5'}\n"
    )
    answer = slimsweep(f"--config-dir={tmp_path / 'own'}", *SHAPES, "+sweeps=mine")
    assert "mine: 2 jobs" in answer.out, answer.err


def test_a_second_named_stage_is_added_to_every_grid_and_replaces_none(slimsweep):
    answer = slimsweep(*SHAPES, "+sweeps=unstructured", "+technique@technique.magnitude_2=magnitude")
    assert "wanda+magnitude" in answer.out and "sparsegpt+magnitude" in answer.out
