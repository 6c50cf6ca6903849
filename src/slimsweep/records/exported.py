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
    """Records, each followed by those of its exported files."""
    return [one for record in records for one in (record, *exports_store(store, record["key"]).records())]


def holder_of(store: Store, record: Record) -> Store:
    """The output folder that holds the measurements of a record."""
    return exports_store(store, record[ORIGIN]) if ORIGIN in record else store


def outcomes_of(store: Store, record: Record) -> dict[str, Outcomes]:
    """Contribution of each item, by field of a record, of exported files too."""
    return holder_of(store, record).outcomes(record)


def origin_key(record: Record) -> str:
    """Key that `slim export` takes: of exported files that of the record they come from."""
    return record.get(ORIGIN, record["key"])


def export_of(record: Record) -> dict[str, Any]:
    """Format of exported files, and its options in `words`; empty for a record that is none."""
    return record["export"] if ORIGIN in record else {}
