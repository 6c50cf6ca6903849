"""Numbers that moved between two versions: `slim compare --against FOLDER`, and the file that keeps them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from slimsweep.cli.comparing import DATA, chosen, other_store
from slimsweep.errors import StoreError
from slimsweep.records import moves as moved_numbers
from slimsweep.records.moves import Comparison
from slimsweep.records.points import Record
from slimsweep.records.store import Store
from slimsweep.records.table import layout, render


@dataclass(frozen=True)
class Asked:
    """Arguments and options of `slim compare` as they were typed."""

    first: str | None
    second: str | None
    against: Path | None
    moved: bool
    fail: bool
    keep: Path | None
    tolerances: Sequence[str]
    margins: Sequence[str] | None
    holm: bool

    @property
    def asks_for_moves(self) -> str:
        """Words of the argument that asks for the list of moved numbers; empty where none does."""
        flags = {"--moved": self.moved, "--fail": self.fail, "--tolerance": self.tolerances}
        for flag, is_given in flags.items():
            if is_given:
                return flag
        if self.against and self.against.is_file():
            return f"--against with a file ({self.against})"
        return "" if self.first else "a comparison without a sweep or key"

    @property
    def asks_for_items(self) -> str:
        """Words of the argument that asks for a comparison item by item; empty where none does."""
        options = {"--margin": self.margins, "--holm": self.holm, f"a second name ({self.second})": self.second}
        return next((words for words, is_given in options.items() if is_given), "")


def refuse_mixtures(asked: Asked) -> None:
    """Refuse options that do not go together, and a comparison with nothing.

    Raises:
        BadParameter: two options belong to different outputs.
        StoreError: there is nothing to compare with.
    """
    flags = asked.moved or asked.fail or asked.tolerances
    if asked.keep:
        if flags or asked.asks_for_items or asked.against:
            raise typer.BadParameter(
                "it only writes a file: give nothing but a sweep or a key beside it", param_hint="--keep"
            )
        return
    if asked.against is None and asked.second is None:
        start = f"{asked.first} with" if asked.first else "the records with"
        raise StoreError(f"nothing to compare {start}: give a second sweep or key, or --against FOLDER")
    if asked.asks_for_moves and asked.asks_for_items:
        raise typer.BadParameter(
            f"{asked.asks_for_moves} lists numbers that moved, {asked.asks_for_items} asks for a comparison item by "
            "item: give one of the two",
            param_hint="slim compare",
        )


def keep(store: Store, name: str | None, path: Path) -> str:
    """Write the numbers of records into a new file; returns what to type for comparing with it.

    Raises:
        StoreError: there are no records, or the file exists.
    """
    records = _records(store, name)
    moved_numbers.write(path, records)
    return f"{path}: numbers of {len(records)} records. Later: slim compare {name or ''} --against {path}"


def moves(store: Store, name: str | None, against: Path, tolerances: Sequence[str]) -> Comparison:
    """Numbers of some records, or of all, that are not as in another folder or file.

    Raises:
        StoreError: one side has no records.
    """
    before = moved_numbers.read(against) if against.is_file() else _records(other_store(against, store), name)
    return moved_numbers.compare(before, _records(store, name), moved_numbers.tolerances_of(tolerances))


def _records(store: Store, name: str | None) -> list[Record]:
    records = chosen(store, name)[0] if name else store.records()
    if not records:
        raise StoreError(f"no record in {store.outputs_dir}: run a job first, or give --outputs FOLDER")
    return records


def text_of(comparison: Comparison, names: tuple[str, str], format: str) -> str:
    """The comparison as a table, or as data; one line where nothing moved."""
    rows = [move.plain() for move in comparison.moves]
    if format == "json":
        counts = {"records": comparison.records, "numbers": comparison.numbers, "faults": len(comparison.faults)}
        return json.dumps(counts | {"moves": rows}, indent=1)
    if format in DATA:
        return render(rows, format)
    return layout(moved_numbers.table_of(comparison, names), format) if comparison.moves else comparison.summary
