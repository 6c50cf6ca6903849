"""Comparison of one experiment's results at two commits, field by field, and its table."""

import re
from dataclasses import dataclass, field
from typing import Any

GROUPS = {
    "weights": r"weights_digest",
    "counts": r"sparsity|\w*parameters|\w+_bytes|bits_per_weight|compression_factor|gmacs\w*",
    "perplexity": r"perplexity_\w+",
    "accuracy": r"accuracy_\w+",
    "stages": r"(weights|zeros|sparsity|restored)",
    "launches": r"records|rewritten|already_recorded",
}
"""Fields that are compared, by the word that stands for them in the table; `stages` are fields of a record's stages."""
NOT_COMPARED = r"(load|peak)_memory_bytes"
RENAMED: dict[str, str] = {}
"""Fields of records that have another name at HEAD: name at the base to name at HEAD."""
MISSING = "missing"


@dataclass
class Result:
    """Fields of one experiment at one side, or why there are none."""

    fields: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    seconds: float = 0.0
    log: str = ""
    """Last lines that a failed launch printed; the whole log goes with the temporary folder."""


@dataclass(frozen=True)
class Comparison:
    """Fields of one experiment that agree, and those that do not, with both values."""

    same: tuple[str, ...]
    moved: dict[str, tuple[Any, Any]]
    new: tuple[str, ...] = ()
    """Fields that only HEAD has: told, and no move."""


def record_fields(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record that are compared, those of its stages as `stages.0.zeros`."""
    record_groups = "|".join(pattern for name, pattern in GROUPS.items() if name not in ("stages", "launches"))
    fields = {
        name: value
        for name, value in record.items()
        if re.fullmatch(record_groups, name) and not re.fullmatch(NOT_COMPARED, name)
    }
    for position, stage in enumerate(record.get("stages") or []):
        fields |= {
            f"stages.{position}.{name}": value for name, value in stage.items() if re.fullmatch(GROUPS["stages"], name)
        }
    return fields


def compare(base: dict[str, Any], head: dict[str, Any]) -> Comparison:
    """Compare two sides field by field and bit for bit.

    Null at both sides is nothing compared; nan equals nan, 0.0 is not -0.0. A field that HEAD lacks has moved, unless
    it was null.
    """
    base = {_name_at_head(name): value for name, value in base.items()}
    same, moved = [], {}
    for name, value in base.items():
        other = head.get(name, MISSING)
        if value is None and other in (None, MISSING):
            continue
        if repr(value) == repr(other):  # of a float: the shortest text that reads back as the same bits
            same.append(name)
        else:
            moved[name] = (value, other)
    return Comparison(tuple(same), moved, tuple(name for name in head if name not in base and head[name] is not None))


def _name_at_head(name: str) -> str:
    """A field's name at HEAD; `1.gmacs` and `stages.0.zeros` are renamed in their last part."""
    place, dot, own = name.rpartition(".")
    return place + dot + RENAMED.get(own, own)


def group_of(name: str) -> str:
    """The word of the table for a field such as `gmacs`, `1.gmacs` (second record) or `stages.0.zeros`."""
    name = re.sub(r"^\d+\.", "", name)
    if name.startswith("stages."):
        return "stages"
    return next(group for group, pattern in GROUPS.items() if re.fullmatch(pattern, name))


@dataclass(frozen=True)
class Verdict:
    """One row of the table."""

    name: str
    base: Result
    head: Result
    allow: frozenset[str] = frozenset()

    @property
    def comparison(self) -> Comparison:
        if self.base.failure or self.head.failure:
            return Comparison((), {"outcome": tuple(side.failure or "ran" for side in (self.base, self.head))})
        return compare(self.base.fields, self.head.fields)

    @property
    def word(self) -> str:
        """`identical`, `moved`, `moved, allowed` or `FAILED` (at HEAD, or nothing to compare), which none may allow."""
        found = self.comparison
        if self.head.failure or not (found.same or found.moved):
            return "FAILED"
        if not found.moved:
            return "identical"
        is_allowed = self.name in self.allow or all(f"{self.name}.{name}" in self.allow for name in found.moved)
        return "moved, allowed" if is_allowed else "moved"

    @property
    def is_fault(self) -> bool:
        return self.word in ("FAILED", "moved")

    def lines(self) -> list[str]:
        """The row, then a row for each field that moved."""
        found = self.comparison
        groups = sorted({group_of(name) for name in found.same}, key=list(GROUPS).index)
        counted = f"{len(found.same)} fields: {', '.join(groups)}" if found.same else "none"
        new = f"new at HEAD: {', '.join(found.new)}" if found.new else ""
        rows = [f"| {self.name} | {self.word} | {counted} | {new} | |"]
        rows += [f"| | | {name} | {before} | {now} |" for name, (before, now) in found.moved.items()]
        return rows


def table(verdicts: list[Verdict]) -> str:
    """Markdown: what is identical, and below it what moved, with both values."""
    head = (
        "| experiment | verdict | identical, or the field that moved | base | HEAD |\n| --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *(line for verdict in verdicts for line in verdict.lines())])
