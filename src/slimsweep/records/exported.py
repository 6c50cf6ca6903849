"""Records of exported files: a record's qualities, measured again on the files that an export wrote.

Such a record lies below the record that the files come from, in an output folder of its own:
`records/<key>/exports/records/<key of the files>/`. It belongs to no sweep, and `slim recommend` reads it.
"""

from collections.abc import Iterable
from typing import Any

from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.records.points import Record
from slimsweep.records.store import Store

ORIGIN = "exported_from"
"""Field with the key of the record that the files come from."""


def exports_store(store: Store, key: str) -> Store:
    """The output folder of the files that were exported from a record."""
    return Store(store.folder(key) / "exports")


def with_exports(store: Store, records: Iterable[Record]) -> list[Record]:
    """Records, each followed by those of its exported files that were measured as it was."""
    return [one for record in records for one in (record, *exports(store, record)) if is_measured_alike(record, one)]


def stale_exports(store: Store, records: Iterable[Record]) -> list[Record]:
    """Records of exported files that were measured by another protocol than their record shows now."""
    return [one for record in records for one in exports(store, record) if not is_measured_alike(record, one)]


def exports(store: Store, record: Record) -> list[Record]:
    """Records of all exported files of a record."""
    return exports_store(store, record["key"]).records()


def is_measured_alike(record: Record, files: Record) -> bool:
    """Whether no field of exported files has another protocol than the record shows now."""
    before, now = files.get("protocols") or {}, record.get("protocols") or {}
    return all(before[name] == now[name] for name in before.keys() & now.keys())


def holder_of(store: Store, record: Record) -> Store:
    """The output folder that holds the measurements of a record."""
    return exports_store(store, record[ORIGIN]) if ORIGIN in record else store


def outcomes_of(store: Store, record: Record) -> dict[str, Outcomes]:
    """Outcomes of a record, or of exported files: the contribution of each item, by field."""
    return holder_of(store, record).outcomes(record)


def origin_key(record: Record) -> str:
    """Key that `slim export` takes. Exported files have that of the record they come from."""
    return record.get(ORIGIN, record["key"])


def export_of(record: Record) -> dict[str, Any]:
    """Format of exported files, and its options in `words`; empty for a record that is none."""
    return record["export"] if ORIGIN in record else {}
