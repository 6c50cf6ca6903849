import pytest
from small_datasets import SHORT, small_dataset

from slimsweep.data.preparation.features import is_within, row_features, text_features


def test_counts_that_can_be_made_by_hand():
    text = "The cat sat. The CAT didn't!\n\nNo end"
    # the cat sat the cat didn't no end: 8 words, of which the, cat, sat, didn't, no, end differ
    assert text_features(text) == {"chars": 36, "words": 8, "sentences": 3, "type_token_ratio": 0.75}


def test_a_text_without_words_has_ratio_zero():
    assert text_features(" ... ") == {"chars": 5, "words": 0, "sentences": 0, "type_token_ratio": 0.0}


@pytest.mark.parametrize(
    ("text", "sentences"), [("3.14 is pi", 1), ("He said “no.” Then left.", 2), ("日本。東京。", 1)]
)
def test_a_point_inside_a_number_ends_no_sentence(text, sentences):
    assert text_features(text)["sentences"] == sentences


def test_a_pair_has_features_of_both_sides_and_their_ratio(tmp_path):
    dataset = small_dataset("pairs", tmp_path, {"train": SHORT["pairs"]})
    features = row_features({"source": "one two", "target": "eins"}, dataset)
    assert features["source_words"] == 2 and features["target_words"] == 1 and features["length_ratio"] == 0.5
    assert set(features) == set(dataset.features)


def test_tokens_are_counted_where_a_tokenizer_is_named(tmp_path):
    dataset = small_dataset("problems", tmp_path, {"train": SHORT["problems"]}, tokenizer=300)
    features = row_features({"question": "ab", "answer": "c"}, dataset, len)
    assert features["tokens"] == 4 and set(features) == set(dataset.features)


def test_both_ends_of_a_range_belong_to_it():
    assert [is_within({"words": count}, "words", 2, 3) for count in (1, 2, 3, 4)] == [False, True, True, False]
    assert is_within({"words": 9}, "words", None, None)
