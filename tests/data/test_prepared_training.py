import pytest
from small_classifier import SHAPE, small_classifier
from small_datasets import prepared_by_hand
from small_pairs import seq2seq

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import dataset_named
from slimsweep.data.prepared_training import PreparedTraining
from slimsweep.models.batches import IGNORED
from slimsweep.models.sources.random import RandomModel


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


def turns(number):
    return [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": f"a {number}"}]


ROWS = {
    "tinystories": [{"text": f"Once there was a cat with {number} legs." * 3} for number in range(40)],
    "sst2": [{"text": f"film {number}", "label": number % 2} for number in range(40)],
    "multi30k": [{"source": f"cat {number}", "target": f"Katze {number}"} for number in range(40)],
    "dolly": [{"messages": turns(number)} for number in range(40)],
    "gsm8k": [{"question": f"{number}+1?", "answer": f"It is.\n#### {number + 1}"} for number in range(40)],
}


def data_of(name, corpora, **settings) -> PreparedTraining:
    prepared_by_hand(dataset_named(name), corpora, train=ROWS[name], validation=ROWS[name][:1])
    return PreparedTraining(dataset=name, **settings)


@pytest.mark.parametrize(("name", "predicts_all"), [("tinystories", True), ("dolly", False), ("gsm8k", False)])
def test_language_models_read_texts_conversations_and_problems(name, predicts_all, corpora, tiny_source):
    data = data_of(name, corpora, tokens=64)
    assert data.faults(tiny_source, corpora) == []
    examples = data.examples(tiny_source, corpora)
    assert len(examples.training) > 20 and examples.validation
    batch = examples.collate(examples.training[:2])
    assert bool((batch["labels"] != IGNORED).all()) == predicts_all


def test_a_classifier_reads_labelled_rows_and_a_language_model_their_texts(tmp_path, corpora, tiny_source):
    data = data_of("sst2", corpora)
    classifier = small_classifier(tmp_path)
    assert "data.tokens=64" in data.faults(classifier, corpora)[0]  # it takes 64 tokens, and 128 is the default
    data = PreparedTraining(dataset="sst2", tokens=32)
    assert data.faults(classifier, corpora) == [] and data.faults(tiny_source, corpora) == []
    examples = data.examples(classifier, corpora)
    assert set(examples.collate(examples.training)["labels"].tolist()) == {0, 1}
    assert len(examples.training) + len(examples.validation) == 40


def test_an_encoder_decoder_reads_every_pair_that_is_not_too_long(tmp_path, corpora):
    source, data = seq2seq("bart", tmp_path), data_of("multi30k", corpora)
    assert data.faults(source, corpora) == []
    examples = data.examples(source, corpora)
    assert len(examples.training) + len(examples.validation) == 40  # none is kept for measuring
    short = PreparedTraining(dataset="multi30k", source_tokens=5).examples(source, corpora)
    assert 0 < len(short.training) + len(short.validation) < 40


def test_a_dataset_of_another_kind_is_refused_with_those_that_fit(tmp_path, corpora, tiny_source):
    (fault,) = data_of("multi30k", corpora).faults(tiny_source, corpora)
    assert "dataset multi30k holds pairs, for models of model.task=seq2seq_lm" in fault and "wikitext2" in fault


def test_what_is_not_prepared_and_what_is_not_named_are_told(corpora, tiny_source):
    assert "run slim prepare sst2" in PreparedTraining(dataset="sst2").faults(tiny_source, corpora)[0]
    assert "add data.dataset=NAME (alpaca," in PreparedTraining(dataset=None).faults(tiny_source, corpora)[0]


def test_the_digest_is_of_the_rows_and_their_kind(tmp_path, corpora):
    digest = data_of("sst2", corpora).digest(corpora)
    other = Corpora(None, tmp_path / "other")
    assert data_of("sst2", other).digest(other) == digest  # wherever it lies
    third = Corpora(None, tmp_path / "third")
    prepared_by_hand(dataset_named("sst2"), third, train=ROWS["sst2"][:-1])
    assert PreparedTraining(dataset="sst2").digest(third) != digest
    assert PreparedTraining(dataset="sst2@0123").digest(corpora) == digest


def test_texts_are_those_that_are_trained_on(corpora):
    assert "a 3" in set(data_of("dolly", corpora).texts(corpora))
    assert set(data_of("sst2", corpora).texts(corpora)) == {row["text"] for row in ROWS["sst2"]}


def test_labels_that_the_model_numbers_otherwise_are_refused(tmp_path, corpora):
    shape = SHAPE | {"id2label": {0: "POSITIVE", 1: "NEGATIVE"}, "label2id": {"POSITIVE": 0, "NEGATIVE": 1}}
    model = RandomModel(name="bert", task="sequence_classification", shape=shape, cache_dir=str(tmp_path))
    (fault,) = data_of("sst2", corpora, tokens=32).faults(model, corpora)
    assert "numbers its labels" in fault


@pytest.mark.parametrize("settings", [{"tokens": 1}, {"source_tokens": 0}, {"validation": 0}])
def test_bad_values_are_refused(settings):
    with pytest.raises(ValueError, match="give a whole number"):
        PreparedTraining(dataset="sst2", **settings)
