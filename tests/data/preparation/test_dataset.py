import re

import pytest

from slimsweep.data.preparation.dataset import dataset_named, dataset_names, dataset_of, description
from slimsweep.errors import ConfigError, CorpusError

NEEDED = {
    *("wikitext2", "ptb", "c4", "sst2", "movie_reviews", "cnn_dailymail", "wmt14_en_de", "multi30k"),
    *("alpaca", "dolly", "slimorca", "gsm8k", "tinystories"),
}


def test_every_dataset_of_conf_is_read_and_described():
    assert set(dataset_names()) >= NEEDED
    for name in dataset_names():
        assert dataset_named(name).splits and description(name).endswith(".")


def test_settings_of_the_command_line_replace_those_of_the_file():
    dataset = dataset_named("sst2", ["filters.words=[3,null]", "tokenizer=8000", "labels=[bad,good]"])
    assert dataset.filters == {"words": (3, None)} and dataset.tokenizer == 8000 and dataset.labels == ("bad", "good")
    assert dataset.row_settings() != dataset_named("sst2").row_settings()


def test_a_tokenizer_changes_no_row_unless_a_filter_counts_tokens():
    plain = dataset_named("sst2")
    assert dataset_named("sst2", ["tokenizer=8000"]).row_settings() == plain.row_settings()
    counting = dataset_named("sst2", ["tokenizer=8000", "filters.tokens=[1,9]"])
    assert counting.row_settings()["tokenizer"] == 8000


def test_one_name_is_a_list_of_one_and_null_is_the_default():
    dataset = dataset_named("sst2", ["splits.train.files=mine.csv", "cleaning=markup", "filters=null"])
    assert dataset.splits["train"].files == ("mine.csv",) and dataset.cleaning == ("markup",)


def test_an_own_file_is_a_dataset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("kind: text\nsplits: {train: {files: [a.txt]}}\n")
    assert dataset_named(str(file)).name == "mine"


def test_faults_are_told_together():
    with pytest.raises(ConfigError) as error:
        dataset_named(
            "sst2", ["cleaning=[markdown]", "filters.word=[3,1]", "filters.words=[3,1]", "tokens=1", "made.train=0.1"]
        )
    text = str(error.value)
    assert "there is no 'markdown'. Did you mean: markup" in text and "no 'word'. Did you mean: words" in text
    assert "filters.words=[3, 1]: the least is more than the most" in text and "tokens=1" in text
    assert "made.train" in text and "tokens=1 needs a tokenizer" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tokeniser=8000"], "no setting 'tokeniser'. Did you mean: tokenizer"),
        (["splits.train.file=[a]"], "splits.train: no setting 'file'. Did you mean: files"),
        (["lowercase"], "'lowercase' is no setting: write KEY=VALUE"),
        (["kind=label"], "kind='label'. Did you mean: labelled"),
        (["tokenizer=100"], "tokenizer=100: give a whole number of at least 262"),
        (["labels=[no,yes]"], "labels: YAML reads a word as False; quote it"),
        (["form=seq2seq"], "form='seq2seq': give auto, classification or causal"),
        (["made.validation=0.1"], "made.validation: a made split has a name of its own"),
        (["patterns.text=("], "is no regular expression"),
        (["patterns.text=(?:a)b"], "has no group: put what stands for the column in brackets"),
        (["made={dev: 0.3, held_out: 20}"], "give fractions alone, or whole numbers of rows alone"),
        (["made={dev: 0.5, held_out: 0.5}"], "the fractions add up to 1"),
        (["filters=[1,2]"], "filters=[1, 2] is no mapping: write filters.NAME=VALUE"),
        (["splits.Test.files=[a]"], "splits.Test: use small letters"),
        (["splits.train.target_files=[a]"], "name one file of targets for each of files"),
    ],
)
def test_a_bad_setting_is_told_with_the_allowed_ones(words, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        dataset_named("sst2", words)


def test_an_unknown_dataset_is_told_the_nearest():
    with pytest.raises(CorpusError, match="no dataset 'wikitext'. Did you mean: wikitext2"):
        dataset_named("wikitext")


def test_a_dataset_needs_splits_and_classes():
    with pytest.raises(ConfigError, match="splits: name at least one"):
        dataset_of("mine", {"kind": "text"})
    with pytest.raises(ConfigError, match="labels: name the two or more classes"):
        dataset_of("mine", {"kind": "labelled", "splits": {"train": {"files": ["a"]}}})


def test_joining_lines_of_the_hub_is_another_preparation():
    joined, plain = (dataset_named("wikitext2", [f"splits.train.hub_lines={flag}"]) for flag in ("true", "false"))
    assert joined.row_settings() != plain.row_settings()
