import io

import pytest
import torch
from absl.logging import get_absl_handler
from small_pairs import pair_table, seq2seq, words

from slimsweep.data.corpora import Corpora
from slimsweep.data.references import Reference
from slimsweep.evaluation.generated_text import Written
from slimsweep.evaluation.rouge import KINDS, Rouge, baseline_text, rouge_scorer, sentences

TEXTS = ["the cat sat on the mat", "a dog barked\nat the cars", ""]
TARGETS = ["the cat was sitting on a mat", "dogs bark at cars\nevery day", "nothing"]
SOURCE = "First one. Second one! Third one? Fourth one.\nFifth one."


def written(texts) -> Written:
    return Written(texts, [[]] * len(texts), 0, 0, 0.0)


def references(targets, sources=None):
    sources = sources or ["s"] * len(targets)
    return [Reference(row, *both) for row, both in enumerate(zip(sources, targets, strict=True), 1)]


@pytest.mark.parametrize("stemmer", [True, False])
def test_equals_the_library(stemmer, tiny):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=stemmer)
    each = [scorer.score(target, text) for target, text in zip(TARGETS, TEXTS, strict=True)]
    scores = Rouge(stemmer=stemmer).scores(tiny, references(TARGETS), written(TEXTS))
    for field, kind in KINDS.items():
        assert scores[field].rows.tolist() == [one[kind].fmeasure for one in each]
        assert scores[field].value == pytest.approx(sum(one[kind].fmeasure for one in each) / 3)


def test_a_case_that_is_counted_by_hand(tiny):
    # 4 of 6 and of 7 words are shared: the, cat, on, mat. 1 of 5 and of 6 pairs: the cat. In order: all four words.
    scores = Rouge(stemmer=False).scores(tiny, references(TARGETS[:1]), written(TEXTS[:1]))
    assert scores["rouge_1"].value == pytest.approx(2 * 4 / (6 + 7))
    assert scores["rouge_2"].value == pytest.approx(2 * 1 / (5 + 6))
    assert scores["rouge_l"].value == pytest.approx(2 * 4 / (6 + 7))


def test_leading_and_random_sentences_of_the_source_stand_beside_it(tiny):
    assert baseline_text(SOURCE, 3, is_random=False) == "First one.\nSecond one!\nThird one?"
    drawn = baseline_text(SOURCE, 2, is_random=True).split("\n")
    assert drawn == baseline_text(SOURCE, 2, is_random=True).split("\n")
    assert len(set(drawn)) == 2 and all(sentence in SOURCE for sentence in drawn)
    assert SOURCE.index(drawn[0]) < SOURCE.index(drawn[1])
    assert baseline_text("One alone", 3, is_random=True) == "One alone"
    scores = Rouge(baseline_sentences=3).scores(tiny, references(["First one. Second one!"], [SOURCE]), written(["x"]))
    assert scores["rouge_1"].value == 0
    assert scores["rouge_1_lead"].value == pytest.approx(2 * 4 / (4 + 6))
    assert "lead 3 sentences" in scores["rouge_1_lead"].protocol


def test_outcomes_add_up_to_the_value_of_the_record(tmp_path):
    model = seq2seq("t5", tmp_path).load(torch.float32, torch.device("cpu"))
    metric = Rouge(path=pair_table(tmp_path, words(6)), max_new_tokens=6)
    measurement = metric.measure(model, Corpora(None, tmp_path))
    for field in KINDS:
        assert measurement.outcomes[field].score() == pytest.approx(measurement.values[field])
        assert len(measurement.outcomes[field].values) == 6
    assert set(measurement.values) == {one.field for one in metric.quantities()}


def test_sentences_end_at_marks_and_lines_but_not_after_titles():
    text = "Mr. Smith met Dr. J. Doe. He left!\nThe U.S. team won 3. 5 lost"
    assert sentences(text) == ["Mr. Smith met Dr. J. Doe.", "He left!", "The U.S. team won 3.", "5 lost"]
    assert baseline_text("Mr. Smith left. He won. It rained.", 1, is_random=False) == "Mr. Smith left."
    assert sentences("") == [] and sentences("He met Mr.") == ["He met Mr."]


def test_sentences_of_a_text_on_one_line_are_compared_as_those_of_lines(tiny):
    target, text = "The cat sat.\nA dog barked.", "A dog barked. The cat sat."
    scores = Rouge().scores(tiny, references([target]), written([text]))
    assert scores["rouge_lsum"].value == 1
    assert scores["rouge_l"].value < 1
    assert "sentences by" in scores["rouge_lsum"].protocol and "sentences" not in scores["rouge_l"].protocol


def test_configuring_logging_closes_no_stream_of_anothers(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(get_absl_handler().python_handler, "stream", stream)  # as where it was imported under capture
    rouge_scorer(stemmer=True)
    get_absl_handler().python_handler.close()
    assert not stream.closed
