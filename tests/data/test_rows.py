import csv
import gzip
import json

import pytest

from slimsweep.data import rows as module
from slimsweep.data.rows import Rows, read_file
from slimsweep.errors import CorpusError

HUB = {"path": "org/text", "split": "test"}


@pytest.fixture(autouse=True)
def forget_failures(monkeypatch):
    monkeypatch.setattr(module, "_failures", {})


def test_lines_keep_their_newline_and_end_at_newlines_only(tmp_path):
    path = tmp_path / "a.raw"
    path.write_text("one\u2028still one\n \n two \n", encoding="utf-8")  # str.splitlines would cut at U+2028
    assert read_file(path) == [{"text": "one\u2028still one\n"}, {"text": " \n"}, {"text": " two \n"}]


def test_packed_and_plain_jsonl_give_the_same_rows(tmp_path):
    content = '{"text": "a"}\n\n{"text": "b"}\n'
    (tmp_path / "a.jsonl").write_text(content)
    with gzip.open(tmp_path / "a.json.gz", "wt") as file:
        file.write(content)
    assert read_file(tmp_path / "a.jsonl") == read_file(tmp_path / "a.json.gz") == [{"text": "a"}, {"text": "b"}]


def test_parquet_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet") == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", b"{broken"), ("a.txt", b"\xff\xfe"), ("a.parquet", b"no")])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=name):
        read_file(tmp_path / name)


def test_a_cut_off_gzip_file_is_named(tmp_path):
    whole = gzip.compress(b'{"text": "' + bytes(range(65, 91)) * 50 + b'"}\n')
    (tmp_path / "a.json.gz").write_bytes(whole[:-12])
    with pytest.raises(CorpusError, match=r"a\.json\.gz"):
        read_file(tmp_path / "a.json.gz")


def test_the_first_local_name_that_exists_wins(tmp_path):
    (tmp_path / "second.txt").write_text("b")
    found = Rows(files=("first.txt", "second.txt"), hub=HUB)
    assert found.read(tmp_path, tmp_path) == ([{"text": "b"}], str(tmp_path / "second.txt"))


def test_without_a_data_folder_the_working_directory_is_not_searched(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert Rows(files=("a.txt",)).local_path(None) is None


def test_the_hub_is_read_where_there_is_no_local_copy(tmp_path, monkeypatch):
    import datasets

    asked = {}

    def load_dataset(**arguments):
        asked.update(arguments)
        return datasets.Dataset.from_list([{"text": "from the hub"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert Rows(files=("a.txt",), hub=HUB).read(tmp_path, tmp_path) == ([{"text": "from the hub"}], "hub org/text")
    assert asked == {**HUB, "cache_dir": str(tmp_path / "datasets")}


def test_neither_local_nor_reachable_names_both_ways_and_is_remembered(tmp_path, monkeypatch):
    import datasets

    calls = []

    def load_dataset(**arguments):
        calls.append(arguments)
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    places = Rows(files=("folder/a.txt",), hub=HUB)
    for _ in range(2):
        with pytest.raises(CorpusError) as caught:
            places.read(tmp_path, tmp_path)
    message = str(caught.value)
    assert all(part in message for part in ("folder/a.txt", "data_dir", "SLIMSWEEP_DATA", "org/text", "no route"))
    assert len(calls) == 1


def test_a_text_that_is_not_on_the_hub_says_so(tmp_path):
    with pytest.raises(CorpusError, match=r"no hub dataset.*a\.txt"):
        Rows(files=("a.txt",)).read(None, tmp_path)


def test_unreachable_hub_fails_within_seconds(tmp_path):
    import time

    import datasets
    import huggingface_hub

    before = (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    started = time.perf_counter()
    with pytest.raises(CorpusError):
        Rows(files=("a.txt",), hub={"path": "slimsweep/does-not-exist", "split": "test"}).read(None, tmp_path)
    assert time.perf_counter() - started < 20  # the library's own retries take 24 s
    assert before == (huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)


def test_a_text_file_can_be_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert Rows(files=("a.txt",), one_document=True).read(tmp_path, tmp_path)[0] == [{"text": "one\n\ntwo\n"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in "ab"))
    assert len(Rows(files=("a.jsonl",), one_document=True).read(tmp_path, tmp_path)[0]) == 2


ROWS = [{"text": "caf\u00e9\nnext line", "id": "1"}, {"text": 'a "quoted", text' * 20_000, "id": "2"}]


def packed(content: bytes) -> bytes:
    return gzip.compress(content)


def as_csv(delimiter: str) -> bytes:
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["text", "id"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def as_parquet() -> bytes:
    import io

    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.JSONL", "\n".join(map(json.dumps, ROWS)).encode()),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("a.Json", json.dumps(ROWS).encode()),
        ("a.json", "\n".join(map(json.dumps, ROWS)).encode()),
        ("a.jsonl", ("\ufeff" + "\n\ufeff".join(json.dumps(row, ensure_ascii=False) for row in ROWS)).encode()),
        ("a.csv", as_csv(",")),
        ("a.CSV", b"\xef\xbb\xbf" + as_csv(",")),
        ("a.tsv", as_csv("\t")),
        ("a.parquet", as_parquet()),
        ("a.jsonl.gz", packed("\n".join(map(json.dumps, ROWS)).encode())),
        ("a.csv.GZ", packed(as_csv(","))),
        ("a.Parquet.gz", packed(as_parquet())),
    ],
)
def test_the_same_rows_of_every_kind_of_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_file(tmp_path / name) == ROWS


def test_json_rows_may_be_texts_or_one_object(tmp_path):
    (tmp_path / "a.json").write_text('["a", "b"]')
    (tmp_path / "b.jsonl").write_text('"a"\n"b"\n')
    (tmp_path / "c.json").write_text(json.dumps({"text": "a", "id": 1}, indent=2))
    assert read_file(tmp_path / "a.json") == read_file(tmp_path / "b.jsonl") == [{"text": "a"}, {"text": "b"}]
    assert read_file(tmp_path / "c.json") == [{"text": "a", "id": 1}]


def test_half_characters_are_replaced_and_the_first_row_is_named(tmp_path, caplog):
    rows = [
        r'{"text": "\ud83d\ude00 whole"}',
        r'{"text": "cut \ud83d", "more": ["\uDE00 b"]}',
        r'{"text": "\udc00\ud800"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "a.json").write_text(f"[{','.join(rows)}]")
    expected = [
        {"text": "\U0001f600 whole"},
        {"text": "cut \ufffd", "more": ["\ufffd b"]},
        {"text": "\ufffd\ufffd"},
    ]
    for name in ("a.jsonl", "a.json"):
        assert read_file(tmp_path / name) == expected
        assert f"{name}: 2 rows hold half a character" in caplog.text and "the first is row 2" in caplog.text


@pytest.mark.parametrize("pack", [bytes, packed])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text\n" + b"a" * 20_000 + "caf\u00e9".encode("latin-1"), "byte 20008 is 0xe9"),
        ("text\ncaf\u00e9 \u20ac".encode("utf-16"), r"byte 0 is 0xff \(it begins like UTF-16\)"),
        ("text".encode("utf-16-be"), "byte 0 is 0x00"),
        (b'"text"\ncut \xed\xa0\xbd', "byte 11 is 0xed"),
    ],
)
def test_another_encoding_is_refused_with_the_byte(tmp_path, pack, name, content, message):
    if name == "a.jsonl":
        content = content.replace(b"text\na", b'"ext"\n', 1)
    path = tmp_path / (name if pack is bytes else f"{name}.gz")
    path.write_bytes(pack(content))
    with pytest.raises(CorpusError, match=rf"{path.name} is not UTF-8: {message}.*Save it as UTF-8"):
        read_file(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": ', "line 2 is no JSON"),
        ("a.json", "{\n broken", "line 1 is no JSON"),
        ("a.json", '[{"text": "a"}, 7]', "row 2 is 7"),
        ("a.csv", 'text\n"never closed\nb\nc\n', "unexpected end of data"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_file(tmp_path / name)
