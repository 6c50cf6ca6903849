"""Records of the sweeps that a command names."""

from collections.abc import Sequence
from typing import Any

import typer

from slimsweep.records.store import Store


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
