import json
from types import SimpleNamespace

import pytest
from conftest import CACHE
from stages import experiment

from slimsweep.data.corpora import Corpora
from slimsweep.errors import ConfigError
from slimsweep.evaluation.accuracy import Accuracy
from slimsweep.pipeline.training_checks import faults, long_digests, overlap_faults

TEXT = "a story that is long enough to be no heading, since a heading may well be equal by chance, number %d"


def asked(trained, measured):
    data = SimpleNamespace(texts=lambda corpora: trained)
    metric = SimpleNamespace(texts=lambda corpora: measured)
    return SimpleNamespace(data=data, metrics={"perplexity": metric}, corpora=None)


def test_texts_that_are_measured_are_not_trained_on():
    texts = [TEXT % number for number in range(200)]
    assert overlap_faults(asked(texts[:100], texts[100:])) == []
    assert overlap_faults(asked(texts[:101], texts[100:])) == []  # one of a hundred
    (fault,) = overlap_faults(asked(texts[:102], texts[100:]))
    assert "2 of the 100 texts that it measures on are in the training data too" in fault
    assert overlap_faults(asked(texts, [])) == []


def test_short_texts_and_blanks_at_the_ends_are_no_difference():
    assert long_digests(["= Title =", TEXT % 1, f"  {TEXT % 1}\n"]) == long_digests([TEXT % 1])


def test_a_chain_without_training_has_no_such_fault(tmp_path):
    assert faults(experiment(tmp_path, "technique=magnitude")) == []


def test_training_that_does_not_fit_is_told_with_what_takes_less(tmp_path, monkeypatch):
    made = experiment(tmp_path, "technique=finetune", "data.tokens=32", "technique.finetune.tokens=600")
    assert faults(made) == [] and made.training_bytes["finetune"] > 0
    monkeypatch.setattr("slimsweep.models.placement.loading.free_bytes", lambda device: 1000)
    (fault,) = faults(made)
    assert fault.startswith("technique.finetune: training takes about") and "micro_sequences=1" in fault


def test_examples_are_read_once(tmp_path, monkeypatch):
    made = experiment(tmp_path, "technique=finetune", "data.tokens=32", "technique.finetune.tokens=600")
    assert made.training_set is made.training_set
    monkeypatch.setattr(type(made.data), "examples", None)
    assert faults(made) == []


@pytest.mark.parametrize("weights", ["meta"])
def test_shapes_alone_are_trained_by_nothing(tmp_path, weights):
    made = experiment(tmp_path, "technique=finetune", f"model.weights={weights}")
    assert made.training_bytes == {}


def test_questions_of_a_task_are_not_trained_on(tmp_path):
    rows = [{"text": one} for one in Accuracy(tasks="sentiment").texts(Corpora(None, CACHE))]
    rows = [row for row in rows if len(row["text"]) > 100][:60]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("technique=finetune", "data=text", f"data.path={tmp_path / 'rows.jsonl'}", "data.tokens=32")
    tasks = ("+metric=accuracy", "evaluation.metrics.accuracy.tasks=[sentiment]")
    with pytest.raises(ConfigError, match="evaluation.metrics.accuracy: 60 of the"):
        experiment(tmp_path, *words, *tasks)
