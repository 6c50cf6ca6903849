import random

import pytest
import torch
from small_pairs import seq2seq

from slimsweep.data.corpora import Corpora
from slimsweep.data.training_text import TrainingText


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    (tmp_path / "mine.txt").write_text("".join(random.Random(0).choices("abcdefghij ", k=900)))
    return Corpora(None, tmp_path)


def data(tmp_path, **fields) -> TrainingText:
    return TrainingText(**{"corpus": "text", "path": str(tmp_path / "mine.txt"), "tokens": 8} | fields)


def test_windows_are_consecutive_and_the_held_out_ones_are_no_others(tmp_path, corpora, tiny_source):
    examples = data(tmp_path).examples(tiny_source, corpora)
    ids = corpora.token_ids(data(tmp_path)._corpus, tiny_source.tokenizer())
    windows = {tuple(window.tolist()) for window in ids[: len(ids) // 8 * 8].view(-1, 8)}
    training = {tuple(window.tolist()) for window in examples.training}
    validation = {tuple(window.tolist()) for window in examples.validation}
    assert training | validation == windows and not training & validation and validation
    batch = examples.collate(examples.training[:3])
    assert batch["input_ids"].shape == (3, 8) and torch.equal(batch["labels"], batch["input_ids"])


def test_faults_come_before_weights(tmp_path, corpora, tiny_source):
    assert data(tmp_path).faults(tiny_source, corpora) == []
    assert "add data.path=FILE" in data(tmp_path, path=None).faults(tiny_source, corpora)[0]
    assert "less than two windows" in data(tmp_path, tokens=2000).faults(tiny_source, corpora)[0] or (
        "takes" in data(tmp_path, tokens=2000).faults(tiny_source, corpora)[0]
    )
    (tmp_path / "short.txt").write_text("abc")
    assert "less than two windows" in data(tmp_path, path=str(tmp_path / "short.txt")).faults(tiny_source, corpora)[0]
    assert "no file" in data(tmp_path, path="nowhere.txt").faults(tiny_source, corpora)[0]
    assert "set data=pairs" in data(tmp_path).faults(seq2seq("bart", tmp_path), corpora)[0]


def test_a_bad_number_is_refused():
    with pytest.raises(ValueError, match="data.tokens=1"):
        TrainingText(corpus="text", tokens=1)
    with pytest.raises(ValueError, match="data.validation=0"):
        TrainingText(corpus="text", tokens=4, validation=0)


def test_the_digest_is_of_the_text(tmp_path, corpora):
    first = data(tmp_path).digest(corpora)
    (tmp_path / "other.txt").write_text((tmp_path / "mine.txt").read_text())
    assert data(tmp_path, path=str(tmp_path / "other.txt")).digest(corpora) == first
    assert list(data(tmp_path).texts(corpora)) == [(tmp_path / "mine.txt").read_text()]
