"""Records as a pandas frame: one row each, and one dtype a field. Programs call it as `slimsweep.records(...)`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimsweep.paths import outputs_dir, project_path
from slimsweep.records.points import Record
from slimsweep.records.store import Store


def read(sweeps: str | Sequence[str] | None = None, outputs: str | Path | None = None) -> Any:
    """Records as a pandas frame, one row each, with the fields of `slim table --format json`.

    Whole numbers have the dtype Int64, other numbers float64, truth values boolean, text str; lists and mappings stay
    objects. A null is NA (NaN in float64); the column `reasons` tells why.

    Args:
        sweeps: names of sweeps; None: every record.
        outputs: output folder; None: as for the commands.

    Raises:
        StoreError: there is no such sweep.
    """
    store = Store(project_path(outputs) if outputs else outputs_dir())
    if sweeps is None:
        return as_frame(store.records())
    names = [sweeps] if isinstance(sweeps, str) else list(sweeps)
    found = {record["key"]: record for name in names for record in store.sweep_records(name)}
    return as_frame(list(found.values()))


def as_frame(records: Sequence[Record]) -> Any:
    """Frame of records, with the fields of all of them in the order in which they first appear."""
    import pandas as pd

    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    return pd.DataFrame({name: pd.Series(values, dtype=dtype_of(values)) for name, values in columns.items()})


def dtype_of(values: Sequence[Any]) -> str:
    """The dtype of a field: Int64, float64, boolean, str, or object for lists, mappings and mixtures."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "Int64"
    if kinds and kinds <= {int, float}:
        return "float64"
    if kinds == {str}:
        return "str"
    return "object"
