"""SQL over records: a table `records` in an SQLite database in memory, which a query can only read."""

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from slimsweep.errors import StoreError
from slimsweep.records.points import Record
from slimsweep.records.table import Table

SECONDS = 20
"""Longest time of a query. A recursive one may never end."""
STEPS = 100_000
"""Steps of SQLite's machine between two looks at the clock."""
READING = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE))
"""Actions of a statement that only reads. ATTACH, PRAGMA, INSERT, CREATE and the others are refused."""
REFUSED_FUNCTIONS = frozenset(("load_extension", "readfile", "writefile", "fts3_tokenizer", "edit"))


def query(records: Sequence[Record], sql: str) -> list[dict[str, Any]]:
    """Rows of a SELECT over the table `records`, each by the name of its column.

    A column is a field of the records; lists and mappings are JSON text, for SQLite's `json_extract`, and truth values
    are 0 and 1. Two columns of one name become `name` and `name_2`.

    Raises:
        StoreError: the statement is wrong, takes too long, or does more than read.
    """
    database = sqlite3.connect(":memory:")
    try:
        fields = _fill(database, records)
        database.set_authorizer(_only_reading)
        end = time.monotonic() + SECONDS
        database.set_progress_handler(lambda: time.monotonic() > end, STEPS)
        found = database.execute(sql)
        names = _unique([column[0] for column in found.description or ()])
        if not names:
            raise StoreError(f"--query {sql!r} selects nothing: give a SELECT ... FROM records")
        return [dict(zip(names, row, strict=True)) for row in found]
    except sqlite3.Error as error:
        raise StoreError(_advice(sql, error, fields)) from error
    finally:
        database.close()


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Rows of a query as a table with every column, numbers with the digits that they have."""
    table = Table()
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        is_word = any(isinstance(value, str) for value in values)
        table.headings.append(name)
        table.columns.append(["-" if value is None else _text(value) for value in values])
        table.are_words.append(is_word)
    return table


def _fill(database: sqlite3.Connection, records: Sequence[Record]) -> list[str]:
    """Write the records into the table; returns its columns."""
    fields = list(dict.fromkeys(name for record in records for name in record)) or ["key"]
    columns = ", ".join(_quoted(name) for name in fields)
    database.execute(f"CREATE TABLE records ({columns})")
    rows = ([_plain(record.get(name)) for name in fields] for record in records)
    database.executemany(f"INSERT INTO records VALUES ({', '.join('?' * len(fields))})", rows)
    database.commit()
    return fields


def _only_reading(action: int, first: str | None, second: str | None, *_: Any) -> int:
    is_refused = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in REFUSED_FUNCTIONS
    return sqlite3.SQLITE_OK if action in READING and not is_refused else sqlite3.SQLITE_DENY


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        count = sum(other == name or other.startswith(f"{name}_") for other in found)
        found.append(name if name not in found else f"{name}_{count + 1}")
    return found


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _advice(sql: str, error: sqlite3.Error, fields: Sequence[str]) -> str:
    """The reason of a refused query, and what may be asked instead."""
    from slimsweep.hints import did_you_mean

    reason = str(error)
    if "authoriz" in reason or "prohibited" in reason:
        return f"--query {sql!r} does more than read ({reason}): give one SELECT over the table records"
    if "one statement" in reason:
        return f"--query {sql!r}: give one statement"
    if "interrupted" in reason:
        return f"--query {sql!r} took more than {SECONDS} s and was ended"
    column = reason.removeprefix("no such column: ")
    hint = did_you_mean(column, list(fields)) if column != reason else ""
    quoting = ' Names with brackets go in double quotes: "perplexity_wikitext2[max_windows=4]".' if "[" in sql else ""
    return f"--query {sql!r}: {reason}. {hint}{quoting}".rstrip()
