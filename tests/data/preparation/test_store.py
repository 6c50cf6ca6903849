import pytest
from small_datasets import prepared_by_hand, small_dataset

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import dataset_named
from slimsweep.data.preparation.store import folders, key_of, local_digest, matching, rows_digest
from slimsweep.errors import CorpusError


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(tmp_path, tmp_path / "cache")


def test_a_key_holds_settings_and_sources_in_any_order():
    key = key_of({"kind": "text", "made": {}}, {"train": "a", "test": "b"})
    assert key == key_of({"made": {}, "kind": "text"}, {"test": "b", "train": "a"}) and len(key) == 16
    assert key != key_of({"kind": "text", "made": {}}, {"train": "a", "test": "c"})
    assert key != key_of({"kind": "text", "made": {"validation": 0.1}}, {"train": "a", "test": "b"})


def test_a_digest_is_of_the_standard_columns_in_order():
    rows = [{"text": "a", "words": 1}, {"text": "b", "words": 1}]
    assert rows_digest(rows, ("text",)) == rows_digest([{"text": "a"}, {"text": "b"}], ("text",))
    assert rows_digest(rows, ("text",)) != rows_digest(rows[::-1], ("text",))


def test_settings_of_tokens_match_for_rows_alone(tmp_path, corpora):
    dataset = small_dataset("text", tmp_path, {"train": [{"text": "a"}]})
    prepared_by_hand(dataset, corpora, train=[{"text": "a"}])
    counted = small_dataset("text", tmp_path, {"train": [{"text": "a"}]}, tokenizer=300)
    assert len(matching(counted, corpora)) == 1 and not matching(counted, corpora, is_for_rows=False)
    filtered = small_dataset("text", tmp_path, {"train": [{"text": "a"}]}, filters={"words": [1, None]})
    assert not matching(filtered, corpora)


def test_damaged_cards_count_as_missing(tmp_path, corpora):
    dataset = small_dataset("text", tmp_path, {"train": [{"text": "a"}]})
    folder = prepared_by_hand(dataset, corpora, train=[{"text": "a"}])
    (folder / "card.json").write_text("{")
    assert folders(dataset, corpora) == []


def test_targets_belong_to_the_digest_and_must_be_there(tmp_path, corpora):
    source = dataset_named("multi30k").splits["validation"]
    assert local_digest(source, corpora) is None
    (tmp_path / "multi30k").mkdir()
    (tmp_path / "multi30k" / "val.en").write_text("a\n")
    with pytest.raises(CorpusError, match="there is no file .*val.de with their targets"):
        local_digest(source, corpora)
    (tmp_path / "multi30k" / "val.de").write_text("a\n")
    before = local_digest(source, corpora)
    (tmp_path / "multi30k" / "val.de").write_text("other\n")
    assert local_digest(source, corpora) != before
