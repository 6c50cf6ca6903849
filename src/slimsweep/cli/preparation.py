"""Output of `slim prepare`: the list of datasets, progress of the work, the card's table, and the folder last."""

import time
from collections.abc import Sequence

import typer

from slimsweep.cli.console import quiet_other_libraries
from slimsweep.cli.live import is_wanted, shown
from slimsweep.data.corpora import Corpora
from slimsweep.data.preparation.card import counts_table
from slimsweep.data.preparation.dataset import dataset_named, dataset_names, description
from slimsweep.data.preparation.prepare import prepare
from slimsweep.data.preparation.store import TOKENIZER, Folder, local_digest, matching
from slimsweep.progress import Watcher, watched_by, watcher

SECONDS_BETWEEN_LINES = 5


class Lines(Watcher):
    """Progress as lines on standard error, for logs: a long part of the work at most every few seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def part(self, title: str, done: int, total: int) -> None:
        if time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            typer.echo(f"{title} {done:,} of {total:,}", err=True)


def list_datasets(corpora: Corpora) -> None:
    """Print name, kind and subject of every dataset, and whether it is prepared."""
    rows = []
    for name in dataset_names():
        dataset = dataset_named(name)
        state = "prepared" if matching(dataset, corpora) else ""
        rows.append((name, dataset.kind, state, description(name)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    typer.echo("prepare one: slim prepare NAME")


def prepare_dataset(name: str, settings: Sequence[str], corpora: Corpora) -> None:
    """Prepare a dataset, or find it prepared; print the counts of its card, and its folder last."""
    quiet_other_libraries()
    dataset = dataset_named(name, settings)
    with shown() if is_wanted() else watched_by(Lines()):
        watcher().job_started(f"prepare {dataset.name}")
        folder, is_new = prepare(dataset, corpora)
    unseen = [] if is_new else [split for split, one in dataset.splits.items() if local_digest(one, corpora) is None]
    for line in outcome_lines(folder, name, is_new, unseen):
        typer.echo(line)


def outcome_lines(folder: Folder, name: str, is_new: bool, unseen: Sequence[str] = ()) -> list[str]:
    """The table of a card, what is missing, how to name the preparation, and its folder.

    Args:
        unseen: splits of an older preparation whose sources are not at hand now.
    """
    card = folder.card
    lines = [counts_table(card), ""]
    lines += [f"{split} is not at hand: {one['absent']}" for split, one in card["sources"].items() if "absent" in one]
    if not is_new:
        lines.append("prepared before by equal settings" + ("" if unseen else " from equal sources"))
    for split in unseen:
        origin = card["sources"].get(split, {}).get("origin", "an unknown source")
        lines.append(f"{split}: sources were not looked at now; it was read from {origin}")
    if card["row_settings"] != dataset_named(name).row_settings():
        lines.append(f"other rows than those of its file: name them {name}@{folder.key}")
    for split, one in card.get("tokens", {}).items():
        counts = "".join(f", {count:,} {reason}" for reason, count in one["counts"].items())
        lines.append(f"{split}: {one['examples']:,} examples of tokens{counts}")
    if (folder.path / TOKENIZER).is_dir():
        lines.append(f"tokenizer: {folder.path / TOKENIZER}")
    return [*lines, str(folder.path)]
