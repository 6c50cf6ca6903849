import pytest
from small_pairs import pair_table, words

from slimsweep.data import references
from slimsweep.data.corpora import Corpora
from slimsweep.data.pairs import Pair
from slimsweep.data.references import ReferenceFile
from slimsweep.errors import CorpusError


class Metric(ReferenceFile):
    where = "evaluation.metrics.some"


class Prepared:
    """Split of a prepared dataset, as the reader gives it."""

    digest = "d" * 64

    def __init__(self, rows):
        self.rows = rows


@pytest.fixture
def corpora(tmp_path) -> Corpora:
    return Corpora(None, tmp_path)


def prepared(monkeypatch, rows):
    """Let the reader of prepared datasets give some rows, and note what it is asked for."""
    asked = []

    def read(name, split, corpora):
        asked.append((name, split))
        return Prepared(rows)

    monkeypatch.setattr(references, "read_split", read)
    return asked


def test_all_pairs_of_a_file_count_in_its_order(tmp_path, corpora):
    rows = Metric(path=pair_table(tmp_path, words(20))).references(corpora).rows
    assert [(row.source, row.target) for row in rows] == words(20)
    assert [row.row for row in rows] == list(range(1, 21))


def test_the_held_out_fifth_is_the_one_that_calibration_leaves(tmp_path, corpora):
    rows = Metric(path=pair_table(tmp_path, words(60)), split="held_out").references(corpora).rows
    assert [row.row for row in rows] == [
        number for number, pair in enumerate(words(60), 1) if Pair(0, *pair).is_held_out
    ]


def test_fewer_pairs_are_the_first_by_hash_whatever_the_order_of_the_file(tmp_path, corpora):
    few = Metric(path=pair_table(tmp_path, words(30)), max_pairs=4).references(corpora).rows
    turned = Metric(path=pair_table(tmp_path, words(30)[::-1]), max_pairs=4).references(corpora).rows
    assert [row.source for row in few] == [row.source for row in turned]
    assert len(few) == 4


def test_two_text_files_are_lines_that_correspond(tmp_path, corpora):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de").write_text("eins\nzwei\n")
    rows = Metric(path=str(tmp_path / "a.en"), target_path=str(tmp_path / "a.de")).references(corpora).rows
    assert [(row.source, row.target) for row in rows] == [("one", "eins"), ("two", "zwei")]


def test_a_prepared_dataset_gives_pairs_or_problems(monkeypatch, corpora):
    asked = prepared(monkeypatch, [{"question": "1+1?", "answer": "2"}])
    found = Metric(dataset="sums").references(corpora)
    assert (found.rows[0].source, found.rows[0].target) == ("1+1?", "2")
    assert found.digest == "d" * 64 and asked == [("sums", "test")]
    prepared(monkeypatch, [{"source": "one", "target": "eins"}])
    assert Metric(dataset="numbers", split="validation").references(corpora).rows[0].target == "eins"


def test_a_conversation_is_written_from_the_turns_before_its_last_answer(monkeypatch, corpora):
    said = [("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Ciao")]
    prepared(monkeypatch, [{"messages": [{"role": role, "content": text} for role, text in said]}])
    row = Metric(dataset="chats").references(corpora).rows[0]
    assert row.source == tuple(said[:4]) and row.target == "Ciao"
    assert row.text == "Be short.\n\nHi\n\nHello\n\nBye"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no row"),
        ([{"text": "a", "label": 1}], "references are pairs, problems or conversations"),
        ([{"source": "a", "target": " "}], "row 1 has an empty target"),
        ([{"messages": [{"role": "user", "content": "a"}]}], "empty"),
    ],
)
def test_rows_that_are_no_references_are_refused(monkeypatch, corpora, rows, words):
    prepared(monkeypatch, rows)
    with pytest.raises(CorpusError, match=words):
        Metric(dataset="x").references(corpora)


def test_a_metric_without_references_says_how_to_name_them(corpora):
    with pytest.raises(CorpusError, match="evaluation.metrics.some.path=FILE.*dataset=NAME"):
        Metric().references(corpora)


def test_an_empty_reference_is_refused_with_its_row(tmp_path, corpora):
    path = pair_table(tmp_path, [("a", "b"), ("c", " ")])
    with pytest.raises(CorpusError, match="row 2 has an empty target"):
        Metric(path=path).references(corpora)


def test_settings_that_contradict_each_other_are_told_together():
    faults = Metric(path="a", dataset="b", max_pairs=0).reference_faults()
    assert len(faults) == 2
    assert "give all or held_out" in Metric(path="a", split="test").reference_faults()[0]
    assert "no sources beside it" in Metric(target_path="a").reference_faults()[0]
