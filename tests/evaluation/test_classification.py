import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_classifier import SHAPE, small_classifier
from small_datasets import prepared_by_hand

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import dataset_named
from slimsweep.evaluation.classification import Classification, f1, f1_statistics
from slimsweep.models.sources.random import RandomModel

CPU = torch.device("cpu")
ROWS = [("good film", 1), ("bad", 0), ("a very good one", 1), ("dull", 0), ("fine", 1)]


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


def table(tmp_path, rows=ROWS, columns=("text", "label")) -> str:
    path = tmp_path / "rows.tsv"
    path.write_text("\t".join(columns) + "\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return str(path)


def direct_f1(labels, predictions, label) -> float:
    """F1 from precision and recall, as books define it."""
    both = sum(given == found == label for given, found in zip(labels, predictions, strict=True))
    predicted, given = predictions.count(label), labels.count(label)
    precision, recall = both / predicted if predicted else 0, both / given if given else 0
    return 2 * precision * recall / (precision + recall) if both else 0


def test_equals_one_text_at_a_time(tmp_path, corpora):
    model = small_classifier(tmp_path).load(torch.float32, CPU)
    model.module.classifier.bias[:] = torch.tensor([0.0, 0.02])  # both labels are predicted
    texts = ["".join(chr(97 + (place * step) % 26) for step in range(1, 4 + place)) for place in range(24)]
    labels = [place % 2 for place in range(24)]
    found = []
    for text in texts:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        found.append(int(model.module(ids).logits.argmax()))
    metric = Classification(path=table(tmp_path, zip(texts, labels, strict=True)), tokens=60, batch_tokens=50)
    measurement = metric.measure(model, corpora)
    right = [given == one for given, one in zip(labels, found, strict=True)]
    assert measurement.outcomes["classification_accuracy"].values.tolist() == right
    assert measurement.values["classification_accuracy"] == pytest.approx(np.mean(right))
    error = np.std(right, ddof=1) / 24**0.5
    assert measurement.values["classification_accuracy_stderr"] == pytest.approx(error)
    assert measurement.values["classification_f1"] == pytest.approx(direct_f1(labels, found, 1))
    assert set(measurement.values) == {one.field for one in metric.quantities()}
    for field in ("classification_accuracy", "classification_f1"):
        assert measurement.outcomes[field].score() == pytest.approx(measurement.values[field])


@pytest.mark.parametrize("seed", [0, 1])
def test_f1_equals_precision_and_recall(seed):
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, 4, 50), generator.integers(0, 3, 50)  # label 3 is never predicted
    each = [direct_f1(labels.tolist(), predictions.tolist(), label) for label in range(4)]
    assert f1(f1_statistics(labels, predictions, range(4))) == pytest.approx(np.mean(each))
    assert f1(f1_statistics(labels, predictions, [1])) == pytest.approx(each[1])


def test_f1_by_hand():
    labels, predictions = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    assert f1(f1_statistics(labels, predictions, [1])) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert f1(f1_statistics(labels, predictions, [0, 1])) == pytest.approx((0.5 + 2 / 3) / 2)
    assert f1(f1_statistics(labels, predictions, [2])) == 0


def test_texts_that_are_cut_are_counted(tmp_path, corpora):
    model = small_classifier(tmp_path).load(torch.float32, CPU)
    measurement = Classification(path=table(tmp_path), tokens=8).measure(model, corpora)
    long = sum(len(model.tokenizer(text)["input_ids"]) > 8 for text, _ in ROWS)
    assert measurement.values["classification_truncated_texts"] == long == 2
    assert "file:rows=5:tokens<=8:tok=" in measurement.protocols["classification_accuracy"]


def test_logits_that_are_not_finite_are_no_accuracy(tmp_path, corpora):
    model = small_classifier(tmp_path).load(torch.float32, CPU)
    model.module.classifier.weight[:] = float("nan")
    measurement = Classification(path=table(tmp_path), tokens=60).measure(model, corpora)
    assert measurement.values["classification_accuracy"] is None and not measurement.outcomes
    assert measurement.reasons["classification_f1"] == "logits are not finite"
    cut = Classification(path=table(tmp_path), tokens=8).measure(model, corpora)
    assert cut.values["classification_truncated_texts"] == 2


def test_faults_are_known_before_weights_load(tmp_path, corpora, tiny_source):
    source = small_classifier(tmp_path)
    assert Classification(path=table(tmp_path), tokens=60).faults(source, corpora) == []
    assert "takes 64 tokens" in Classification(path=table(tmp_path)).faults(source, corpora)[0]
    assert "model.task=causal_lm" in Classification(path=table(tmp_path)).faults(tiny_source, corpora)[0]
    assert "path=FILE" in Classification(tokens=60).faults(source, corpora)[0]
    outside = Classification(path=table(tmp_path, [*ROWS, ("x", 2)]), tokens=60).faults(source, corpora)
    assert "row 6 has the label '2'; this model has 2 labels: 0 to 1" in outside[0]
    named = table(tmp_path, columns=("sentence", "label"))
    assert "columns there: sentence, label" in Classification(path=named, tokens=60).faults(source, corpora)[0]
    assert Classification(path=named, tokens=60, text_column="sentence").faults(source, corpora) == []
    empty = Classification(path=table(tmp_path, []), tokens=60).faults(source, corpora)
    assert "holds no row" in empty[0]
    three = RandomModel(
        name="bert", task="sequence_classification", shape={**SHAPE, "num_labels": 3}, cache_dir=str(tmp_path)
    )
    binary = Classification(path=table(tmp_path), tokens=60, average="binary")
    assert "3 labels: give macro" in binary.faults(three, corpora)[0]


def test_fewer_rows_are_the_first_by_hash(tmp_path, corpora):
    metric = Classification(path=table(tmp_path), max_rows=2)
    few = metric.rows(corpora)
    turned = dataclasses.replace(metric, path=table(tmp_path, ROWS[::-1])).rows(corpora)
    assert {row.text for row in few} == {row.text for row in turned} and len(few) == 2


def test_the_dev_sentences_of_sst2_are_read_whole(shared, corpora):
    metric = Classification(path=str(shared / "data" / "sst2" / "dev.tsv"), text_column="sentence")
    rows = metric.rows(corpora)
    assert len(rows) == 872 and sum(row.label == "1" for row in rows) == 444


def test_the_command_measures_a_classifier(tmp_path, slimsweep):
    source = small_classifier(tmp_path)
    source.load(torch.float32, CPU).module.save_pretrained(tmp_path / "bert")
    source.tokenizer().save_pretrained(tmp_path / "bert")
    answer = slimsweep(
        *("model=local", f"model.path={tmp_path}/bert", "model.task=sequence_classification", "technique=[]"),
        *("evaluation=classification", f"evaluation.path={table(tmp_path)}", "evaluation.tokens=60"),
        *("dtype=float32", "tracker=none"),
    )
    assert answer.status == 0, answer.err
    record = json.loads(Path(answer.out.splitlines()[-1]).read_text())
    assert 0 <= record["classification_f1"] <= 1 and record["latency_seconds"] > 0


@pytest.mark.parametrize(("names", "is_fault"), [(("positive", "negative"), True), (("NEGATIVE", "POSITIVE"), False)])
def test_a_model_that_numbers_its_labels_otherwise_than_the_dataset_is_refused(names, is_fault, tmp_path, corpora):
    rows = [{"text": f"film {number}", "label": number % 2} for number in range(4)]
    prepared_by_hand(dataset_named("sst2"), corpora, train=rows, validation=rows)
    numbers = {name: number for number, name in enumerate(names)}
    shape = {**SHAPE, "label2id": numbers, "id2label": {number: name for name, number in numbers.items()}}
    source = RandomModel(name="bert", task="sequence_classification", shape=shape, cache_dir=str(tmp_path))
    faults = Classification(dataset="sst2", tokens=60).faults(source, corpora)
    assert bool(faults) == is_fault
    assert not is_fault or "numbers its labels {'positive': 0, 'negative': 1}" in faults[0]
