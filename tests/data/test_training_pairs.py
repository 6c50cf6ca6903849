import pytest
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.data.pairs import read_pairs
from slimsweep.data.training_pairs import TrainingPairs


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


def test_pairs_for_measuring_are_neither_trained_nor_validated_on(tmp_path, corpora):
    source, path = seq2seq("bart", tmp_path), pair_table(tmp_path, words(300))
    data = TrainingPairs(path=path)
    assert data.faults(source, corpora) == []
    examples = data.examples(source, corpora)
    rows = {pair.row for pair, _ in (*examples.training, *examples.validation)}
    held_out = {pair.row for pair in read_pairs(path, ("source", "target")).pairs if pair.is_held_out}
    assert held_out and not rows & held_out and len(examples.validation) > 3
    assert not {pair.source for pair, _ in examples.training} & {pair.source for pair, _ in examples.validation}
    batch = examples.collate(examples.training[:4])
    assert batch["decoder_input_ids"].shape == batch["labels"].shape
    assert set(data.texts(corpora)) == {pair.source for pair in read_pairs(path, ("source", "target")).pairs} - {
        pair.source for pair in read_pairs(path, ("source", "target")).pairs if pair.is_held_out
    }


def test_decoders_are_refused_and_too_few_pairs_told(tmp_path, corpora, tiny_source):
    path = pair_table(tmp_path, words(30))
    assert "choose text with data=text" in TrainingPairs(path=path).faults(tiny_source, corpora)[0]
    few = TrainingPairs(path=path, source_tokens=1)
    assert "two are needed" in few.faults(seq2seq("bart", tmp_path), corpora)[0]
