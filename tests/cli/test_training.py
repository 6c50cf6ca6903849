"""The commands of docs/training.md and docs/low-rank.md on a small random model."""

import json

import pytest
from small_jobs import SMALL, record_at

DATA = ("data.tokens=16", "data.validation=4")
SHORT = ("tokens=200", "batch_sequences=2", "evaluations=1")
SIX = "model.shape.num_hidden_layers=7"  # the default range of llm_pruner leaves the first four and last two


def short(*stages: str) -> list[str]:
    return [f"technique.{stage}.{knob}" for stage in stages for knob in SHORT]


@pytest.mark.parametrize("stage", ["lora", "distill"])
def test_pruning_then_training_tells_what_training_gained(slimsweep, stage):
    words = (*SMALL, *DATA, SIX, f"technique=[llm_pruner,{stage}]", "ratio=0.25", *short(stage))
    record = record_at(slimsweep(*words))
    training = record["stages"][1]["notes"]["training"]
    assert training["steps"] == training["planned_steps"] == 6
    assert training["predicted_peak_bytes"] > 0
    assert record["perplexity_movie_reviews_before"] != record["perplexity_movie_reviews"]
    before = record_at(slimsweep(*SMALL, SIX, "technique=llm_pruner", "ratio=0.25"))
    assert before["key"] == record["before_key"]
    assert before["perplexity_movie_reviews"] == record["perplexity_movie_reviews_before"]


def test_a_leading_finetune_is_the_base(slimsweep):
    words = (*SMALL, *DATA, "ratio=0.5", *short("finetune"))
    chain = record_at(slimsweep(*words, "technique=[finetune,wanda]"))
    base = record_at(slimsweep(*words, "technique=finetune"))
    assert chain["base_key"] == base["key"] == base["base_key"]
    assert chain["before_key"] == record_at(slimsweep(*SMALL, "ratio=0.5", "technique=wanda"))["key"]


@pytest.mark.parametrize("technique", ["svd", "tensor_train", "[sparsegpt,eora]"])
def test_low_rank_techniques_run(slimsweep, technique):
    more = ["technique.eora.rank=4", "technique.sparsegpt.pattern=2:4"] if "eora" in technique else ["ratio=0.2"]
    record = record_at(slimsweep(*SMALL, f"technique={technique}", *more))
    dense = record_at(slimsweep(*SMALL, "technique=[]"))
    assert (record["parameters"] < dense["parameters"]) == ("eora" not in technique)


def test_training_on_the_text_that_is_measured_is_refused(slimsweep, tmp_path):
    rows = [{"text": f"{n} " + "a story of some length that is told here and measured there " * 4} for n in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpora = f"evaluation.corpora=[{{name: mine, path: {tmp_path / 'mine.jsonl'}}}]"
    words = (*SMALL, *DATA, corpora, "data=text", f"data.path={tmp_path / 'mine.jsonl'}", "technique=finetune")
    answer = slimsweep(*words, *short("finetune"))
    assert answer.status == 1 and "40 of the 40 texts that it measures on are in the training data" in answer.err


def test_more_examples_in_a_step_than_there_are_are_refused_before_weights_load(slimsweep):
    answer = slimsweep(*SMALL, "data.tokens=100000", "technique=finetune", "technique.finetune.batch_sequences=500")
    assert answer.status == 1 and "data.tokens" in answer.err
    answer = slimsweep(*SMALL, "data.tokens=128", "technique=finetune", "technique.finetune.batch_sequences=90000")
    assert answer.status == 1 and "batch_sequences=90000 is more than the" in answer.err
