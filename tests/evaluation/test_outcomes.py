import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from slimsweep.evaluation.outcomes import Outcomes, items_digest

HYPOTHESES = ["the cat sat on the mat", "a dog barked at two men", "it rains in the old town today"]
REFERENCES = ["the cat sat on a mat", "a dog barks at the men", "it is raining in the old town today"]


def test_a_mean_is_of_the_items_and_of_the_chosen_ones():
    right = Outcomes(np.array([1, 0, 1, 1], dtype=np.uint8), "mean", "a")
    assert right.score() == 0.75 and right.score(np.array([1, 1, 0, 3])) == 0.5


def test_perplexity_is_of_tokens_and_bits_are_of_bytes():
    rows = np.array([[6.0, 3.0], [4.0, 1.0]])  # 10 nats over 4 tokens
    assert Outcomes(rows, "exp_mean", "a").score() == pytest.approx(math.exp(2.5))
    assert Outcomes(rows, "bits", "a").score() == pytest.approx(2.5 / math.log(2))
    assert Outcomes(np.array([[8000.0, 2.0]]), "exp_mean", "a").score() == math.inf


@pytest.mark.parametrize(("name", "metric"), [("bleu", BLEU()), ("chrf", CHRF()), ("chrf", CHRF(word_order=2))])
def test_statistics_of_sacrebleu_give_its_corpus_score(name, metric):
    rows = np.array(metric._extract_corpus_statistics(HYPOTHESES, [REFERENCES]), dtype=np.int32)
    expected = metric.corpus_score(HYPOTHESES, [REFERENCES]).score
    assert expected > 10 and Outcomes(rows, name, "a").score() == pytest.approx(expected, abs=1e-9)


def test_an_unknown_aggregate_and_words_as_values_are_refused():
    with pytest.raises(ValueError, match="no aggregate 'maen' of outcomes. Did you mean: mean"):
        Outcomes(np.zeros(2), "maen", "a")
    with pytest.raises(ValueError, match="not <U1 of shape"):
        Outcomes(np.array(["a"]), "mean", "a")


def test_the_digest_tells_items_their_order_and_where_each_ends():
    assert items_digest(["ab", "c"]) == items_digest([b"ab", "c"])
    assert len({items_digest(parts) for parts in (["ab", "c"], ["c", "ab"], ["a", "bc"], ["abc"])}) == 4
