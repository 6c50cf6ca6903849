import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.records.paired import bootstrap, holm, mcnemar, paired, proportions, sacrebleu_p, t_test


def right(*values) -> Outcomes:
    return Outcomes(np.array(values, dtype=np.uint8), "mean", "a")


def test_flips_are_counted_each_way_and_mcnemar_equals_scipys():
    first = right(*[1] * 10, *[0] * 8, *[1] * 2)
    second = right(*[1] * 10, *[1] * 8, *[0] * 2)
    found = paired(first, second)
    assert (found.items, found.better, found.worse, found.same) == (20, 8, 2, 10)
    assert found.difference == pytest.approx(0.3)
    assert found.p == stats.binomtest(8, 10, 0.5).pvalue == pytest.approx(0.109375)  # 2 (1 + 10 + 45) / 1024
    assert found.low < 0.3 < found.high and "McNemar" in found.method


def test_models_that_answer_alike_have_p_1_and_an_interval_around_0():
    found = paired(right(1, 0, 1, 1), right(1, 0, 1, 1))
    assert (found.p, found.difference, found.same) == (1.0, 0.0, 4)
    assert found.low == -found.high < 0 and mcnemar(0, 0) == 1


def test_the_interval_of_proportions_worked_by_hand():
    # 8 gained, 2 lost of 20: (9 - 3) / 22 = 0.2727; sqrt((12/22 - 0.2727^2) / 22) = 0.14634; times 1.95996 = 0.28682
    assert proportions(8, 2, 20, 0.95) == pytest.approx((0.27273 - 0.28682, 0.27273 + 0.28682), abs=5e-5)


def test_equivalence_worked_by_hand():
    """Differences 0.1, 0.2, 0.3, 0.4 of windows of one token: mean 0.25, s.e. 0.1291 / 2 = 0.06455.

    t(0.95, 3) = 2.3534: the 90 % interval is 0.25 ± 0.1519, from 0.0981 to 0.4019.
    """
    ones, rows = np.ones(4), np.array([0.5, 0.1, 0.9, 0.4])
    first = Outcomes(np.stack([rows, ones], axis=1), "ratio", "a")
    second = Outcomes(np.stack([rows + [0.1, 0.2, 0.3, 0.4], ones], axis=1), "ratio", "a")
    found = paired(first, second, higher_is_better=False)
    assert found.inner == pytest.approx((0.0981, 0.4019), abs=1e-4)
    assert found.is_within(0.41) and not found.is_within(0.40) and found.low < found.inner[0]
    assert (found.better, found.worse) == (0, 4)
    test = stats.ttest_rel(second.rows[:, 0], first.rows[:, 0])
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_a_perplexity_has_the_interval_of_its_linear_approximation():
    tokens = np.full(3, 2.0)
    first = Outcomes(np.stack([2 * np.log([2.0, 4.0, 8.0]), tokens], axis=1), "exp_mean", "a")
    second = Outcomes(np.stack([2 * np.log([4.0, 8.0, 17.0]), tokens], axis=1), "exp_mean", "a")
    p, (low, high), _ = t_test(first, second)
    effects = second.score() * np.log([4, 8, 17]) - 4 * np.log([2, 4, 8])
    reach = stats.t.ppf(0.975, 2) * effects.std(ddof=1) / math.sqrt(3)
    assert (high - low) / 2 == pytest.approx(reach) and (low + high) / 2 == pytest.approx(second.score() - 4)
    assert p == pytest.approx(stats.ttest_rel(np.log([4, 8, 17]), np.log([2, 4, 8])).pvalue)


def test_one_window_has_no_test():
    one = Outcomes(np.array([[1.0, 2.0]]), "exp_mean", "a")
    assert math.isnan(paired(one, one).p)


SYSTEMS = {
    "first": ["the cat sat on a mat", "a dog barked at two men", "it rains in the town today", "he ate an apple"] * 5,
    "second": ["the cat sat on the mat", "a dog barks at men", "it is raining in the old town", "he ate a pear"] * 5,
}
REFERENCES = [
    "the cat sat on the mat",
    "a dog barks at the men",
    "it is raining in the old town today",
    "he ate one",
] * 5


def test_the_bootstrap_is_sacrebleus_own(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    metric = BLEU(references=[REFERENCES])
    _, found = PairedTest(list(SYSTEMS.items()), {"BLEU": metric}, None, test_type="bs", n_samples=300)()
    rows = [
        Outcomes(np.array(metric._extract_corpus_statistics(texts, None), dtype=np.int32), "bleu", "a")
        for texts in SYSTEMS.values()
    ]
    p, (low, high), _ = bootstrap(*rows, samples=300)
    (first, second) = found["BLEU"]
    assert [one.score() for one in rows] == pytest.approx([first.score, second.score])
    assert 0 < second.p_value < 0.5 and sacrebleu_p(*rows, samples=300) == second.p_value
    assert low < second.score - first.score < high and p >= second.p_value
    result = paired(*rows)
    assert result.method == "paired bootstrap, 1000 resamples, seed 12345"
    assert result.sacrebleu_p == sacrebleu_p(*rows) and 0 < result.sacrebleu_p < 0.5


def test_scores_between_0_and_1_are_bootstrapped_too():
    first = Outcomes(np.array([0.2, 0.5, 0.4, 0.3] * 10), "mean", "a")
    second = Outcomes(first.values + np.array([0.1, 0.0, 0.1, -0.01] * 10), "mean", "a")
    found = paired(first, second)
    assert (found.better, found.worse, found.same) == (20, 10, 10)
    assert 0 < found.low < found.difference < found.high and found.p < 0.05


@pytest.mark.parametrize("aggregate", ["mean", "bleu"])
def test_equal_texts_are_no_difference(aggregate):
    values = np.array([[7, 7, 5, 3, 2, 1, 7, 6, 5, 4]] * 9 if aggregate == "bleu" else [0.2, 0.5, 0.4] * 3)
    found = paired(Outcomes(values, aggregate, "a"), Outcomes(values.copy(), aggregate, "a"))
    assert (found.p, found.difference, found.low, found.high) == (1.0, 0.0, 0.0, 0.0)


def test_the_bootstrap_finds_a_difference_by_chance_as_often_as_it_says():
    chance, hits = np.random.default_rng(0), 0
    for _ in range(200):
        first, second = (Outcomes(chance.random(60), "mean", "a") for _ in range(2))
        p, (low, high), _ = bootstrap(first, second, samples=200)
        hits += p < 0.05
        assert p > 0.02 or low > 0 or high < 0  # p and the interval agree
    assert 2 <= hits <= 20  # 10 are expected


def test_holm_worked_by_hand():
    # sorted: 0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.20 x 1
    assert holm([0.03, 0.01, 0.20, 0.02]) == pytest.approx([0.06, 0.04, 0.20, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])  # never below the one before
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    found = holm([math.nan, 0.02, 0.5])
    assert math.isnan(found[0]) and found[1:] == pytest.approx([0.04, 0.5])


def test_outcomes_of_other_items_are_refused():
    with pytest.raises(ValueError, match="other items"):
        paired(right(1, 0), Outcomes(np.array([1, 0]), "mean", "b"))
