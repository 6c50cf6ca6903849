import pytest
from small_datasets import prepared_by_hand

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import dataset_named
from slimsweep.data.prepared import command, dataset_label, read_split
from slimsweep.errors import CorpusError
from slimsweep.paths import STANDS_FOR

ROWS = [{"text": "good", "label": 1, "words": 1}, {"text": "bad", "label": 0, "words": 1}]


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "data" / "sst2").mkdir(parents=True)
    (tmp_path / "data" / "sst2" / "train.tsv").write_text("sentence\tlabel\ngood\t1\n")
    return tmp_path / "data"


@pytest.fixture
def corpora(tmp_path, data_dir) -> Corpora:
    return Corpora(data_dir, tmp_path / "cache")


def test_rows_have_the_standard_columns_alone(corpora):
    prepared_by_hand(dataset_named("sst2"), corpora, train=ROWS)
    split = read_split("sst2", "train", corpora)
    assert split.rows == [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
    assert len(split.digest) == 64


def test_what_was_not_prepared_is_told_with_the_command(corpora, data_dir):
    with pytest.raises(
        CorpusError, match=f"run slim prepare sst2 --data-dir {data_dir} --cache-dir {corpora.cache_dir}$"
    ):
        read_split("sst2", "train", corpora)


def test_an_unknown_dataset_is_told_the_nearest(corpora):
    with pytest.raises(CorpusError, match="no dataset 'sst'. Did you mean: sst2"):
        read_split("sst", "train", corpora)


def test_a_missing_split_is_an_error_and_never_another_one(corpora):
    prepared_by_hand(dataset_named("sst2"), corpora, train=ROWS)
    with pytest.raises(CorpusError, match="prepared without the split 'test'.*There are: train"):
        read_split("sst2", "test", corpora)


def test_a_changed_source_is_not_prepared_yet(corpora, data_dir):
    prepared_by_hand(dataset_named("sst2"), corpora, train=ROWS)
    (data_dir / "sst2" / "train.tsv").write_text("sentence\tlabel\nother\t1\n")
    with pytest.raises(CorpusError, match="not prepared from the sources at hand"):
        read_split("sst2", "train", corpora)


def test_what_was_prepared_once_is_read_without_its_sources(corpora, tmp_path):
    prepared_by_hand(dataset_named("sst2"), corpora, train=ROWS)
    assert len(read_split("sst2", "train", Corpora(None, tmp_path / "cache")).rows) == 2


def test_two_preparations_of_other_rows_are_never_chosen_from(corpora, data_dir, tmp_path):
    prepared_by_hand(dataset_named("sst2"), corpora, "a" * 16, train=ROWS)
    (data_dir / "sst2" / "train.tsv").write_text("sentence\tlabel\nother\t1\n")
    prepared_by_hand(dataset_named("sst2"), corpora, "b" * 16, train=ROWS[:1])
    assert len(read_split("sst2", "train", corpora).rows) == 1
    with pytest.raises(CorpusError, match="several sources"):
        read_split("sst2", "train", Corpora(None, tmp_path / "cache"))


def test_a_dry_run_tells_the_command_for_the_cache_that_it_stands_for(tmp_path):
    lasting, throwaway = tmp_path / "cache", tmp_path / "throwaway"
    lasting.mkdir()
    throwaway.mkdir()
    (throwaway / STANDS_FOR).symlink_to(lasting)
    assert command("sst2", Corpora(None, throwaway)) == f"slim prepare sst2 --cache-dir {lasting}"
    assert command("sst2", Corpora(None, lasting)) == f"slim prepare sst2 --cache-dir {lasting}"


def test_a_protocol_names_a_dataset_without_its_folder():
    given = ["sst2", "sst2@8f946f18", "/some/folder/mine.yaml", "mine.yaml@8f946f18"]
    assert [dataset_label(name) for name in given] == ["sst2", "sst2@8f946f18", "mine", "mine@8f946f18"]
