"""The command `slim table`."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from slimsweep.cli.formats import As, Format, Holm, Margins
from slimsweep.cli.outputs import Outputs, store_of
from slimsweep.cli.selecting import Sweeps, records_of
from slimsweep.records.store import Store

Over = StrEnum("Over", ["seed"])
Against = StrEnum("Against", ["base"])


def table(
    sweeps: Sweeps = None,
    format: As = Format.md,
    over: Annotated[Over | None, typer.Option(help="Mean and standard deviation over seeds.")] = None,
    literature: Annotated[bool, typer.Option("--literature", help="Published values beside ours.")] = False,
    claims: Annotated[bool, typer.Option("--claims", help="Claims of publications, tested by our records.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Every column, not the table that the sweep's file defines.")
    ] = False,
    against: Annotated[
        Against | None, typer.Option(help="Paired comparison with each record's base, item by item.")
    ] = None,
    margin: Margins = None,
    holm: Holm = False,
    files: Annotated[bool, typer.Option("--files", help="List exported files that were measured, too.")] = False,
    query: Annotated[
        str | None, typer.Option(help="SQL over the table `records` instead: SELECT technique, ratio FROM records.")
    ] = None,
    outputs: Outputs = None,
) -> None:
    """Records as a table; --format json prints a list of flat records."""
    from slimsweep.cli.querying import echo_query, refuse_beside_query
    from slimsweep.records.exported import with_exports
    from slimsweep.records.points import over_seed
    from slimsweep.records.table import layout, render
    from slimsweep.reports import study_table

    store, is_data = store_of(outputs), format in (Format.csv, Format.json)
    if query is not None:
        refuse_beside_query({"--against": against, "--literature": literature, "--claims": claims})
    if literature and claims and is_data:
        raise typer.BadParameter(
            f"--format {format.value} is one document: give --literature or --claims", param_hint="--format"
        )
    if literature or claims:
        kinds = [name for name, is_asked in (("literature", literature), ("claims", claims)) if is_asked]
        _echo_reports(store, sweeps, kinds, format)
        return
    records = with_exports(store, records_of(store, sweeps)) if files else records_of(store, sweeps)
    if against:
        _echo_against(store, records, (margin, holm), format)
        return
    records = over_seed(records) if over else records
    if query is not None:
        echo_query(records, query, format.value)
        return
    study = study_table.of_sweep(sweeps[0]) if sweeps and len(sweeps) == 1 and not (plain or is_data) else None
    text = layout(study_table.table(study, records), format.value) if study else render(records, format.value)
    typer.echo(text)


def _echo_against(
    store: Store, records: Sequence[dict[str, Any]], rules: tuple[list[str] | None, bool], format: Format
) -> None:
    """Print how records differ from their bases, item by item."""
    from slimsweep.cli.comparing import against
    from slimsweep.records.paired_table import Rules

    typer.echo(against(store, records, Rules.of(rules[0] or [], rules[1]), format.value))


def _echo_reports(store: Store, sweeps: Sequence[str] | None, kinds: Sequence[str], format: Format) -> None:
    """Print published values, claims, or both, each beside the records of the named sweeps or of all."""
    from slimsweep.records.table import layout, render
    from slimsweep.reports import claims, literature

    records = {name: store.sweep_records(name) for name in sweeps or store.sweep_names()}
    every = {record["key"]: record for found in records.values() for record in found} if sweeps else {}
    for kind in kinds:
        if kind == "literature":
            found = literature.compare(literature.read(), list(every.values()) if sweeps else store.records())
            rows, table = literature.rows(found), literature.table(found)
        else:
            verdicts = claims.judge(claims.read(), records)
            rows, table = claims.rows(verdicts), claims.table(verdicts)
        is_data = format in (Format.csv, Format.json)
        typer.echo(render(rows, format.value) if is_data else layout(table, format.value))
