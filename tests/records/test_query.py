import time

import pytest

from slimsweep.errors import StoreError
from slimsweep.records import query as queries
from slimsweep.records.query import query, table_of

RECORDS = [
    {"key": "a", "technique": "wanda", "ratio": 0.5, "parameters": 100, "stages": [{"name": "wanda"}], "is_meta": True},
    {"key": "b", "technique": "dense", "ratio": None, "parameters": 2**40, "stages": [], "f[x=1]": 2.5},
]


def test_fields_are_columns_and_nested_ones_are_json():
    rows = query(RECORDS, "SELECT key, ratio, parameters, is_meta FROM records ORDER BY key")
    assert rows == [
        {"key": "a", "ratio": 0.5, "parameters": 100, "is_meta": 1},
        {"key": "b", "ratio": None, "parameters": 2**40, "is_meta": None},
    ]
    (row,) = query(RECORDS, "SELECT json_extract(stages, '$[0].name') AS stage FROM records WHERE key = 'a'")
    assert row == {"stage": "wanda"}
    assert query(RECORDS, "SELECT \"f[x=1]\" FROM records WHERE key = 'b'") == [{"f[x=1]": 2.5}]


def test_columns_of_one_name_are_told_apart():
    assert query(RECORDS, "SELECT 1 AS n, 2 AS n FROM records LIMIT 1") == [{"n": 1, "n_2": 2}]


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH DATABASE '{path}' AS other",
        "DELETE FROM records",
        "UPDATE records SET key = 'c'",
        "CREATE TABLE mine (a)",
        "PRAGMA database_list",
        "SELECT load_extension('{path}')",
        "VACUUM INTO '{path}'",
        "DROP TABLE records",
        "SELECT 1; SELECT 2",
        "SELECT writefile('{path}', 'x')",
        "CREATE VIRTUAL TABLE t USING csv(filename='{path}')",
    ],
)
def test_a_query_only_reads(sql, tmp_path):
    path = tmp_path / "other.db"
    with pytest.raises(StoreError, match="--query"):
        query(RECORDS, sql.format(path=path))
    assert not path.exists() and not list(tmp_path.iterdir())


def test_a_mistyped_column_is_answered_with_the_nearest():
    with pytest.raises(StoreError, match="no such column: techniqe.*technique"):
        query(RECORDS, "SELECT techniqe FROM records")
    with pytest.raises(StoreError, match="syntax error"):
        query(RECORDS, "SELEC key FROM records")
    with pytest.raises(StoreError, match="selects nothing"):
        query(RECORDS, "")


def test_a_query_without_an_end_is_ended(monkeypatch):
    monkeypatch.setattr(queries, "SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(StoreError, match="took more than"):
        query(RECORDS, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
    assert time.monotonic() - started < 10


def test_values_that_json_lacks_become_text_or_null():
    rows = query(RECORDS, "SELECT x'00ff' AS blob, 9e999 AS large, -9e999 AS low FROM records LIMIT 1")
    assert rows == [{"blob": "00ff", "large": None, "low": None}]


def test_fields_that_differ_in_case_and_large_integers_are_read():
    rows = query([{"key": "a", "Key": "b", "count": 2**70, "most": 2**63 - 1}], "SELECT * FROM records")
    assert rows == [{"key": "a", "Key_2": "b", "count": 2.0**70, "most": 2**63 - 1}]
    with pytest.raises(StoreError, match="--query"):
        query([{"key": "a", "count": 10**400}], "SELECT key FROM records")


def test_an_answer_that_is_too_large_is_refused(monkeypatch):
    with pytest.raises(StoreError, match="too big"):
        query(RECORDS, "SELECT zeroblob(1000000000)")
    with pytest.raises(StoreError, match="3000 fields, too many"):
        query([{f"field_{number}": 1 for number in range(3000)}], "SELECT field_1 FROM records")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, 'text' FROM n"
    for limit, most in (("MOST_ROWS", 50), ("MOST_CHARACTERS", 200)):
        with monkeypatch.context() as patched:
            patched.setattr(queries, limit, most)
            with pytest.raises(StoreError, match="add a LIMIT"):
                query(RECORDS, endless)
            assert len(query(RECORDS, f"{endless} LIMIT 50")) == 50


def test_no_records_are_an_empty_table():
    assert query([], "SELECT count(*) AS n FROM records") == [{"n": 0}]
    assert table_of([]).headings == []


def test_rows_become_a_table_with_all_columns():
    table = table_of(query(RECORDS, "SELECT technique, ratio, parameters FROM records"))
    assert table.rows == [("wanda", "0.5", "100"), ("dense", "-", str(2**40))]
