"""Steps from the rows of the official splits to those that are stored, each with its counts.

clean -> normalise -> empty -> duplicates -> overlaps -> filters -> made splits. Steps that leave rows out see the
training split alone: official evaluation splits keep every row, so that scores on them compare with published ones.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from slimsweep.data.preparation.cleaning import STEPS
from slimsweep.data.preparation.dataset import TRAIN, Dataset
from slimsweep.data.preparation.features import is_within, row_features
from slimsweep.data.preparation.sources import is_empty
from slimsweep.data.preparation.splits import (
    Rows,
    input_digest,
    made_splits,
    overlaps,
    row_input,
    without_duplicates,
)
from slimsweep.errors import ConfigError, CorpusError
from slimsweep.progress import tracked, watcher

SHOWN_TEXT = 60


@dataclass(frozen=True)
class Step:
    """Counts of one step, by split."""

    name: str
    before: dict[str, int]
    after: dict[str, int]
    changed: dict[str, int] = field(default_factory=dict)
    """Rows whose text the step changed."""
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """Rows of every split with their features, and what each step did."""

    splits: dict[str, Rows]
    features: dict[str, Rows]
    steps: list[Step]


TokenCount = Callable[[str], int] | None
TokenCounter = Callable[[Rows], TokenCount]
"""Makes the count of a text's tokens, given the training rows that a tokenizer may be trained on."""


def run_steps(splits: dict[str, Rows], dataset: Dataset, counter: TokenCounter = lambda rows: None) -> Outcome:
    """All steps in order.

    Raises:
        ConfigError: official splits overlap, and the dataset does not say that rows may go.
        CorpusError: a step leaves a split empty.
    """
    steps: list[Step] = []
    for name in (*dataset.cleaning, *dataset.normalisation):
        splits = _noted(steps, name, splits, _rewritten(splits, name))
    splits = _noted(steps, "empty", splits, _without_empty(splits, dataset))
    if dataset.duplicates == "remove" and TRAIN in splits:
        watcher().step("duplicates")
        unique = without_duplicates(splits[TRAIN], dataset.standard_columns)
        splits = _noted(steps, "duplicates", splits, splits | {TRAIN: unique}, _contradictions(unique, dataset))
    splits = _noted(steps, "overlaps", splits, *_without_overlaps(splits, dataset))
    count = counter(splits.get(TRAIN, []))
    features = {split: _featured(rows, dataset, count, split) for split, rows in splits.items()}
    for name, (least, most) in dataset.filters.items() if TRAIN in splits else ():
        keep = [is_within(one, name, least, most) for one in features[TRAIN]]
        features = features | {TRAIN: _kept(features[TRAIN], keep)}
        note = f"from {least} to {most}".replace("from None to", "up to").replace(" to None", " on")
        splits = _noted(steps, f"filter {name}", splits, splits | {TRAIN: _kept(splits[TRAIN], keep)}, note)
    if dataset.made:
        whole = [row | {"_features": one} for row, one in zip(splits[TRAIN], features[TRAIN], strict=True)]
        made = made_splits(whole, dataset)
        features = features | {name: [row["_features"] for row in rows] for name, rows in made.items()}
        rows = {name: [_without(row, "_features") for row in rows] for name, rows in made.items()}
        splits = _noted(steps, "made splits", splits, splits | rows)
    _refuse_empty(splits, steps)
    _check_leaks(splits, dataset)
    return Outcome(splits, features, steps)


def _noted(steps: list[Step], name: str, before: dict[str, Rows], after: dict[str, Rows], note: str = "") -> dict:
    """The rows after a step, whose counts are added to the list."""
    changed = {
        split: sum(row is not other for row, other in zip(before[split], rows, strict=True))
        for split, rows in after.items()
        if split in before and len(rows) == len(before[split])
    }
    sizes = [{split: len(rows) for split, rows in splits.items()} for splits in (before, after)]
    steps.append(Step(name, *sizes, {split: count for split, count in changed.items() if count}, note))
    return after


def _rewritten(splits: dict[str, Rows], name: str) -> dict[str, Rows]:
    """Rows with a cleaning step on every text; one that stays equal is the same object."""
    rewrite = STEPS[name]
    return {
        split: [_row_rewritten(row, rewrite) for _, row in tracked(rows, f"{name}, {split}")]
        for split, rows in splits.items()
    }


def _row_rewritten(row: dict[str, Any], rewrite: Callable[[str], str]) -> dict[str, Any]:
    changed = {}
    for name, value in row.items():
        if isinstance(value, str):
            new = rewrite(value)
        elif isinstance(value, list):
            new = [turn | {"content": rewrite(turn["content"])} for turn in value]
        else:
            continue
        if new != value:
            changed[name] = new
    return row | changed if changed else row


def _without_empty(splits: dict[str, Rows], dataset: Dataset) -> dict[str, Rows]:
    """Training rows without those that lack a text; of running text, blank documents go from every split."""
    return {
        split: [row for row in rows if not any(map(is_empty, row.values()))]
        if split == TRAIN or dataset.kind == "text"
        else rows
        for split, rows in splits.items()
    }


def _contradictions(rows: Rows, dataset: Dataset) -> str:
    """A sentence on texts that have two labels; they stay."""
    if dataset.kind != "labelled":
        return ""
    inputs = Counter(input_digest(row, dataset.kind) for row in rows)
    several = sum(count > 1 for count in inputs.values())
    return f"{several} texts of {TRAIN} have two labels" if several else ""


def _without_overlaps(splits: dict[str, Rows], dataset: Dataset) -> tuple[dict[str, Rows], str]:
    """Rows without those that give way to an equal input of another split, and a sentence on these."""
    watcher().step("overlaps")
    found = overlaps(splits, dataset.kind)
    allowed = {"remove": (TRAIN,), "remove_all": tuple(splits), "refuse": ()}[dataset.overlaps]
    faults = [
        f"{len(rows)} of {len(splits[loser])} rows of {loser} have an input that is in {winner} too, such as "
        f"{row_input(splits[loser][rows[0]], dataset.kind)[:SHOWN_TEXT]!r}: give other files, or set overlaps="
        + ("remove" if loser == TRAIN else "remove_all, which takes them out of " + loser)
        for (loser, winner), rows in found.items()
        if loser not in allowed
    ]
    if faults:
        raise ConfigError(faults)
    removed: dict[str, set[int]] = {}
    for (loser, _), rows in found.items():
        removed.setdefault(loser, set()).update(rows)
    note = ", ".join(f"{len(rows)} of {loser} were in {winner}" for (loser, winner), rows in found.items())
    kept = {
        split: [row for index, row in enumerate(rows) if index not in removed.get(split, ())]
        for split, rows in splits.items()
    }
    return kept, note


def _featured(rows: Rows, dataset: Dataset, count: TokenCount, split: str) -> Rows:
    return [row_features(row, dataset, count) for _, row in tracked(rows, f"features, {split}")]


def _kept(rows: Rows, keep: Iterable[bool]) -> Rows:
    return [row for row, is_kept in zip(rows, keep, strict=True) if is_kept]


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def _refuse_empty(splits: dict[str, Rows], steps: list[Step]) -> None:
    empty = [split for split, rows in splits.items() if not rows]
    if empty:
        guilty = [next((step.name for step in steps if not step.after.get(split, 1)), "made splits") for split in empty]
        told = ", ".join(f"{split} (by the step {step!r})" for split, step in zip(empty, guilty, strict=True))
        raise CorpusError(f"no row is left in {told}: change the setting of that step")


def _check_leaks(splits: dict[str, Rows], dataset: Dataset) -> None:
    """Fail where an input is in two splits, which the steps before make impossible.

    Raises:
        CorpusError: there is such an input.
    """
    owner: dict[bytes, str] = {}
    for split, rows in splits.items():
        for row in rows:
            other = owner.setdefault(input_digest(row, dataset.kind), split)
            if other != split:
                raise CorpusError(
                    f"dataset {dataset.name}: an input is in {other} and in {split}: "
                    f"{row_input(row, dataset.kind)[:SHOWN_TEXT]!r}. Nothing was written"
                )
