"""SQL over records: a table `records` in an SQLite database in memory, which a query can only read."""

import itertools
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from slimsweep.errors import StoreError
from slimsweep.records.points import Record
from slimsweep.records.table import Table

SECONDS = 20
"""Longest time of a query. A recursive one may never end."""
LONGEST_VALUE = 10**7
"""Bytes of the longest text or blob that a query may make."""
MOST_ROWS = 100_000
MOST_CHARACTERS = 10**8
"""Characters of all texts of an answer."""
INTEGER_BITS = 64
STEPS = 100_000
"""Steps of SQLite's machine between two looks at the clock."""
READING = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE))
"""Actions of a statement that only reads. ATTACH, PRAGMA, INSERT, CREATE and the others are refused."""
REFUSED_FUNCTIONS = frozenset(("load_extension", "readfile", "writefile", "fts3_tokenizer", "edit"))


def query(records: Sequence[Record], sql: str) -> list[dict[str, Any]]:
    """Rows of a SELECT over the table `records`, each by the name of its column.

    A column is a field of the records; lists and mappings are JSON text, for SQLite's `json_extract`, and truth values
    are 0 and 1. Two columns of one name become `name` and `name_2`, also where only the case differs. Blobs become
    hexadecimal text, and infinite numbers None.

    Raises:
        StoreError: the statement is wrong, takes too long, answers with too much, or does more than read.
    """
    database = sqlite3.connect(":memory:")
    fields = list(dict.fromkeys(name for record in records for name in record)) or ["key"]
    try:
        _fill(database, records, fields)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        database.set_authorizer(_only_reading)
        end = time.monotonic() + SECONDS
        database.set_progress_handler(lambda: time.monotonic() > end, STEPS)
        found = database.execute(sql)
        names = _unique([column[0] for column in found.description or ()])
        if not names:
            raise StoreError(f"--query {sql!r} selects nothing: give a SELECT ... FROM records")
        return [dict(zip(names, row, strict=True)) for row in _limited(found, sql)]
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
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


def _limited(rows: Iterable[Sequence[Any]], sql: str) -> Iterator[list[Any]]:
    """Rows in values that JSON has, as long as there are not too many."""
    characters = 0
    for count, row in enumerate(rows):
        values = [_jsonable(value) for value in row]
        characters += sum(len(value) for value in values if isinstance(value, str))
        if count == MOST_ROWS or characters > MOST_CHARACTERS:
            raise StoreError(
                f"--query {sql!r} answers with more than {MOST_ROWS} rows or {MOST_CHARACTERS} characters: add a LIMIT"
            )
        yield values


def _fill(database: sqlite3.Connection, records: Sequence[Record], fields: Sequence[str]) -> None:
    """Write fields of the records into the table."""
    columns = ", ".join(_quoted(name) for name in _unique(fields))
    database.execute(f"CREATE TABLE records ({columns})")
    rows = ([_plain(record.get(name)) for name in fields] for record in records)
    database.executemany(f"INSERT INTO records VALUES ({', '.join('?' * len(fields))})", rows)
    database.commit()


def _only_reading(action: int, first: str | None, second: str | None, *_: Any) -> int:
    is_refused = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in REFUSED_FUNCTIONS
    return sqlite3.SQLITE_OK if action in READING and not is_refused else sqlite3.SQLITE_DENY


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() >= INTEGER_BITS:
        return float(value)  # as SQLite reads such a number in a statement
    return json.dumps(value) if isinstance(value, dict | list) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(names: Sequence[str]) -> list[str]:
    """Names of which no two are equal for SQLite, which ignores case: the second `n` becomes `n_2`."""
    found: dict[str, str] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        free = next(one for one in itertools.chain([name], numbered) if one.lower() not in found)
        found[free.lower()] = free
    return list(found.values())


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _advice(sql: str, error: Exception, fields: Sequence[str]) -> str:
    """The reason of a refused query, and what may be asked instead."""
    from slimsweep.hints import did_you_mean

    reason = str(error)
    if "authoriz" in reason or "prohibited" in reason:
        return f"--query {sql!r} does more than read ({reason}): give one SELECT over the table records"
    if "one statement" in reason:
        return f"--query {sql!r}: give one statement"
    if "too many columns" in reason:
        return f"--query {sql!r}: the records have {len(fields)} fields, too many for a table: name a sweep"
    if "interrupted" in reason:
        return f"--query {sql!r} took more than {SECONDS} s and was ended"
    column = reason.removeprefix("no such column: ")
    hint = did_you_mean(column, list(fields)) if column != reason else ""
    quoting = ' Names with brackets go in double quotes: "perplexity_wikitext2[max_windows=4]".' if "[" in sql else ""
    return f"--query {sql!r}: {reason}. {hint}{quoting}".rstrip()
