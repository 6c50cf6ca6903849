import pytest
from made_up import record, with_outcomes

from slimsweep.records.quantities import quantity
from slimsweep.records.store import Store
from slimsweep.reports.noise import compare, digits, is_real, noise, sentence

FIELD = "accuracy_sentiment"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def answers(store, technique, right, items="some"):
    values = [1.0] * right + [0.0] * (20 - right)
    made = record(technique, **{FIELD: right / 20}, perplexity_wikitext2=None)
    return with_outcomes(store, made, FIELD, values, items)


def test_neighbours_that_differ_by_one_answer_are_noise(store):
    first, second, last = (answers(store, *one) for one in (("a", 19), ("b", 18), ("c", 4)))
    (caution,) = noise(store, [last, first, second])
    assert caution.keys == (first["key"], second["key"])
    assert caution.text.startswith("a and b: accuracy sentiment 0.95 and 0.9; the difference lies between")
    assert "20 items" in caution.text and "p = 1" in caution.text


def test_equal_values_and_other_items_are_no_noise(store):
    assert noise(store, [answers(store, "a", 19), answers(store, "b", 19)]) == []
    assert noise(store, [answers(store, "a", 19), answers(store, "b", 18, items="others")]) == []
    assert noise(store, [record("a", accuracy_sentiment=0.9), record("b")]) == []


def test_a_large_difference_is_real(store):
    one = quantity(FIELD)
    first, second = (store.outcomes(answers(store, name, right)) for name, right in (("a", 19), ("b", 4)))
    result = compare(one, first, second)
    assert is_real(result) and result.difference == pytest.approx(-0.75)
    assert "-0.75" not in sentence(one, result) and "0.95 and 0.2" in sentence(one, result)
    assert compare(one, first, {}) is None


def test_near_values_are_shown_apart():
    assert digits(quantity("perplexity_x"), 4.2503) == "4.25" and digits(quantity("perplexity_x"), 4.253) == "4.253"
    assert digits(quantity("weight_bytes"), 2**20 * 0.2187) == "0.2187"
    assert digits(quantity("perplexity_x"), 533979.2) == "533979"
