import pytest
from small_datasets import small_dataset

from slimsweep.data.preparation.pipeline import _check_leaks, run_steps
from slimsweep.errors import ConfigError, CorpusError


def run(kind, tmp_path, splits, **settings):
    dataset = small_dataset(kind, tmp_path, {"train": [{}]}, **settings)
    return run_steps(splits, dataset)


def texts(outcome, split="train"):
    return [row["text"] for row in outcome.splits[split]]


def counts(outcome, name):
    step = next(step for step in outcome.steps if step.name == name)
    return step.before["train"], step.after["train"]


def test_each_step_is_counted_and_drops_what_it_must(tmp_path):
    train = ["Good film", "good  film", " ", "seen before", "one", "a a a a a a", "A fine long text here"]
    splits = {"train": [{"text": text} for text in train], "test": [{"text": "Seen  before"}, {"text": "x"}]}
    outcome = run("text", tmp_path, splits, filters={"words": [2, 6], "type_token_ratio": [0.5, None]})
    assert texts(outcome) == ["Good film", "A fine long text here"]
    assert counts(outcome, "empty") == (7, 6) and counts(outcome, "duplicates") == (6, 5)
    assert counts(outcome, "overlaps") == (5, 4)
    assert counts(outcome, "filter words") == (4, 3) and counts(outcome, "filter type_token_ratio") == (3, 2)
    assert texts(outcome, "test") == ["Seen before", "x"]  # cleaned, none left out, though x has one word
    whitespace = next(step for step in outcome.steps if step.name == "whitespace")
    assert whitespace.changed == {"train": 2, "test": 1}


@pytest.mark.parametrize(
    ("feature", "kept"),
    [("chars", "abcd efgh"), ("words", "a b c"), ("sentences", "A b. C d."), ("tokens", "zz zz zz z")],
)
def test_every_feature_can_be_a_filter(tmp_path, feature, kept):
    least = {"chars": 9, "words": 3, "sentences": 2, "tokens": 10}[feature]
    most = {"chars": 9, "words": 3, "sentences": 2, "tokens": 10}[feature]
    given = ["ab", "abcd efgh", "a b c", "A b. C d.", "zz zz zz z", "A very long text. It has three. Sentences."]
    dataset = small_dataset("text", tmp_path, {"train": [{}]}, filters={feature: [least, most]}, tokenizer=300)
    outcome = run_steps({"train": [{"text": text} for text in given]}, dataset, lambda rows: len)
    assert kept in texts(outcome) and len(texts(outcome)) < len(given)
    assert {one[feature] for one in outcome.features["train"]} == {least}


def test_pairs_of_unlike_lengths_go(tmp_path):
    rows = [{"source": "one two", "target": "eins zwei"}, {"source": "one two three four", "target": "eins"}]
    assert run("pairs", tmp_path, {"train": rows}, filters={"length_ratio": [0.5, 2]}).splits["train"] == rows[:1]


def test_no_input_is_in_two_splits(tmp_path):
    rows = [{"text": f"T{number % 90}", "label": number % 2} for number in range(300)]
    test = [{"text": f"t{number}", "label": 0} for number in range(10)]
    outcome = run("labelled", tmp_path, {"train": rows, "test": test}, made={"validation": 0.2})
    inputs = {split: {row["text"].lower() for row in rows} for split, rows in outcome.splits.items()}
    assert len(outcome.splits["test"]) == 10 and outcome.splits["validation"]
    assert not inputs["train"] & inputs["validation"] and not inputs["test"] & (inputs["train"] | inputs["validation"])
    assert all(len(outcome.features[split]) == len(rows) for split, rows in outcome.splits.items())
    step = next(step for step in outcome.steps if step.name == "overlaps")
    assert step.note == "10 of train were in test" and step.before["train"] - step.after["train"] == 10


def test_official_splits_that_overlap_are_refused_or_cleared(tmp_path):
    splits = {
        "train": [{"text": "a"}, {"text": "b"}],
        "validation": [{"text": "c"}, {"text": "d"}],
        "test": [{"text": "C"}],
    }
    with pytest.raises(ConfigError, match="1 of 2 rows of validation have an input that is in test too, such as 'c'"):
        run("text", tmp_path, splits)
    assert texts(run("text", tmp_path, splits, overlaps="remove_all"), "validation") == ["d"]
    with pytest.raises(ConfigError, match="1 of 2 rows of train.*overlaps=remove"):
        run("text", tmp_path, splits | {"validation": [{"text": "b"}]}, overlaps="refuse")


def test_labels_that_contradict_each_other_are_told(tmp_path):
    rows = [{"text": "a", "label": 0}, {"text": "A", "label": 1}, {"text": "b", "label": 1}]
    outcome = run("labelled", tmp_path, {"train": rows})
    assert len(outcome.splits["train"]) == 3
    assert next(step for step in outcome.steps if step.name == "duplicates").note == "1 texts of train have two labels"


def test_running_text_keeps_its_repetitions(tmp_path):
    rows = [{"text": "yes"}, {"text": "yes"}, {"text": ""}]
    assert texts(run("text", tmp_path, {"train": rows}, duplicates="keep")) == ["yes", "yes"]


def test_a_filter_that_leaves_nothing_is_named(tmp_path):
    with pytest.raises(CorpusError, match="no row is left in train .by the step 'filter words'."):
        run("text", tmp_path, {"train": [{"text": "a b"}]}, filters={"words": [3, None]})


def test_an_input_in_two_splits_is_refused_even_without_assertions(tmp_path):
    dataset = small_dataset("text", tmp_path, {"train": [{"text": "a"}]})
    with pytest.raises(CorpusError, match="an input is in train and in test: 'A'. Nothing was written"):
        _check_leaks({"train": [{"text": "a"}], "test": [{"text": "A"}]}, dataset)
    _check_leaks({"train": [{"text": "a"}, {"text": "a"}], "test": [{"text": "b"}]}, dataset)
