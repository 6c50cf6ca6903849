"""Output of `slim table --query`: the rows of an SQL query in any format of a table."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from slimsweep.records.points import Record
from slimsweep.records.query import query, table_of
from slimsweep.records.table import layout


def refuse_beside_query(options: Mapping[str, Any]) -> None:
    """Refuse options that print another table than a query's.

    Raises:
        BadParameter: one of the options is given; names it.
    """
    if given := [name for name, value in options.items() if value]:
        raise typer.BadParameter(f"give --query or {' and '.join(given)}, not both", param_hint="--query")


def echo_query(records: Sequence[Record], sql: str, format: str) -> None:
    """Print the rows of a query.

    Raises:
        StoreError: the query is wrong or does more than read.
    """
    rows = query(records, sql)
    if format == "json":
        typer.echo(json.dumps(rows, indent=1, allow_nan=False))
    elif format == "csv":
        typer.echo(_as_csv(rows))
    else:
        typer.echo(layout(table_of(rows), format))


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().rstrip("\n")
