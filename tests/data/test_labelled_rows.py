from types import SimpleNamespace

import pytest
from small_classifier import small_classifier

from slimsweep.data.corpora import Corpora
from slimsweep.data.labelled_rows import LabelledRows, Row, label_ids
from slimsweep.errors import CorpusError


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


@pytest.fixture
def source(tmp_path):
    return small_classifier(tmp_path)


def rows(tmp_path, labels=("0", "1"), count=60) -> str:
    path = tmp_path / "rows.tsv"
    lines = [f"text number {n}\t{labels[n % len(labels)]}" for n in range(count)]
    path.write_text("text\tlabel\n" + "\n".join(lines))
    return str(path)


def test_rows_become_batches_with_labels(tmp_path, corpora, source):
    data = LabelledRows(path=rows(tmp_path), tokens=12)
    assert data.faults(source, corpora) == []
    examples = data.examples(source, corpora)
    batch = examples.collate(examples.training[:4])
    assert batch["input_ids"].shape == (4, 12) and batch["labels"].shape == (4,)
    assert len(examples.training) + len(examples.validation) == 60
    assert {label for _, _, label in examples.training} == {0, 1}


def test_labels_are_numbers_or_names_of_the_config():
    config = SimpleNamespace(label2id={"bad": 0, "good": 1}, num_labels=2)
    assert label_ids([Row(1, "", word) for word in ("bad", "good", "1")], config, "f") == [0, 1, 1]
    with pytest.raises(CorpusError, match="row 3 has the label '2'; this model has 2 labels: 0 to 1, or bad, good"):
        label_ids([Row(3, "", "2")], config, "f")


def test_faults_come_before_weights(tmp_path, corpora, source, tiny_source):
    assert "add data.path=FILE" in LabelledRows(path=None, tokens=12).faults(source, corpora)[0]
    assert (
        "model.task=sequence_classification"
        in LabelledRows(path=rows(tmp_path), tokens=8).faults(tiny_source, corpora)[0]
    )
    assert "the label '7'" in LabelledRows(path=rows(tmp_path, ("0", "7")), tokens=8).faults(source, corpora)[0]
    named = LabelledRows(path=rows(tmp_path), tokens=8, text_column="sentence")
    assert "columns there: text, label" in named.faults(source, corpora)[0]
    assert "takes 64 tokens" in LabelledRows(path=rows(tmp_path), tokens=80).faults(source, corpora)[0]
