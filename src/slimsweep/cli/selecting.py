"""Arguments that name sweeps, and the records of those named."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from slimsweep.cli.outputs import store_of
from slimsweep.records.store import Store


def sweep_names(incomplete: str) -> list[str]:
    """Completions of the name of a sweep."""
    return [name for name in store_of(None).sweep_names() if name.startswith(incomplete)]


Sweep = Annotated[str, typer.Argument(autocompletion=sweep_names, help="Name of a sweep launched before.")]
Sweeps = Annotated[
    list[str] | None,
    typer.Argument(autocompletion=sweep_names, help="Names of sweeps; default: every record."),
]


def records_of(store: Store, sweeps: Sequence[str] | None) -> list[dict[str, Any]]:
    """Records of the named sweeps, each once, or of all; what is missing is said on standard error."""
    if not sweeps:
        return store.records()
    found: dict[str, dict[str, Any]] = {}
    for name in sweeps:
        records = store.sweep_records(name)
        missing = len(store.sweep_jobs(name)) - len(records)
        if missing:
            typer.echo(f"{name}: {missing} jobs have no record yet; see: slim status {name}", err=True)
        found |= {record["key"]: record for record in records}
    return list(found.values())
