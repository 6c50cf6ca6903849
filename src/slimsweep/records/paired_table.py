"""Pairs of records compared item by item, and the table of these comparisons."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from slimsweep.errors import StoreError
from slimsweep.evaluation.outcomes import Outcomes
from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.exported import outcomes_of
from slimsweep.records.paired import LEVEL, Paired, holm, paired
from slimsweep.records.points import Record, distinctions, label
from slimsweep.records.quantities import quantities_of
from slimsweep.records.store import Store
from slimsweep.records.table import SHOWN_KEY, Table


@dataclass(frozen=True)
class Comparison:
    """One quantity of two records, item by item."""

    first: Record
    second: Record
    quantity: Quantity
    result: Paired


@dataclass(frozen=True)
class Rules:
    """Rules of a table of comparisons."""

    margins: dict[str, float] = dataclasses.field(default_factory=dict)
    """Margin of equivalence by field, or by a pattern of fields such as `accuracy_*`."""
    corrects: bool = False
    """Whether Holm's correction stands beside each p."""

    @classmethod
    def of(cls, margins: Sequence[str], corrects: bool) -> "Rules":
        """Rules as they are typed: `0.01` for every field, `accuracy_*=0.01` for some.

        Raises:
            StoreError: a margin is no number above 0.
        """
        found = {}
        for given in margins:
            name, _, number = given.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not 0 < value < math.inf:
                raise StoreError(f"--margin {given}: give a number above 0, for all fields (0.01) or some (bleu=0.5)")
            found[name or "*"] = value
        return cls(found, corrects)

    def margin(self, name: str) -> float | None:
        """Margin of a field: of the longest pattern that fits it."""
        fitting = [pattern for pattern in self.margins if fnmatchcase(name, pattern)]
        return self.margins[max(fitting, key=len)] if fitting else None


def compared(
    first: Record, second: Record, own: dict[str, Outcomes], other: dict[str, Outcomes], groups: Sequence[str]
) -> list[Comparison]:
    """Compare every quantity of some groups whose outcomes both records keep, by the same protocol.

    Args:
        own: Outcomes of the first record by field; `other`: of the second.

    Raises:
        StoreError: a quantity was measured by one protocol on different items.
    """
    found = []
    for name, one in quantities_of([first, second]).items():
        if one.group not in groups or first.get(name) is None or second.get(name) is None:
            continue
        if name not in own or name not in other or _protocols(first, second, name) is not None:
            continue
        if own[name].items != other[name].items:
            digests = " and ".join(outcomes[name].items[:SHOWN_KEY] for outcomes in (own, other))
            raise StoreError(f"{_names(first, second)}: {name} is of other items ({digests}), so they are not paired")
        result = paired(own[name], other[name], one.higher_is_better is not False)
        found.append(Comparison(first, second, one, result))
    return found


def refuse_other_protocols(first: Record, second: Record) -> None:
    """Raise StoreError where a quality of two records was measured by different protocols."""
    for name, one in quantities_of([first, second]).items():
        if one.group != "quality" or first.get(name) is None or second.get(name) is None:
            continue
        if protocols := _protocols(first, second, name):
            raise StoreError(
                f"{_names(first, second)}: {name} was measured by {protocols[0]} and by {protocols[1]}, which must not "
                "be compared. Measure both by one protocol"
            )


def _protocols(first: Record, second: Record, name: str) -> tuple[str | None, str | None] | None:
    """Protocols of a field where two records differ in them; None where they agree."""
    found = tuple((record.get("protocols") or {}).get(name) for record in (first, second))
    return None if found[0] == found[1] else (found[0], found[1])


def _names(first: Record, second: Record) -> str:
    return " and ".join(f"{label(record)} ({record['key'][:SHOWN_KEY]})" for record in (first, second))


def against_base(store: Store, records: Sequence[Record]) -> tuple[list[Comparison], list[Record]]:
    """Compare the qualities of records with those of their bases, by the same measurements.

    The second value holds the records that keep no outcomes which their base has too.

    Raises:
        StoreError: a base has no record, or nothing can be compared.
    """
    found, without = [], []
    for record in records:
        base = store.model(record["base_key"]) if record.get("base_key") else None
        if base is None:
            raise StoreError(
                f"the base of {label(record)} ({record['key'][:SHOWN_KEY]}) has no record: run the dense model "
                "with the same evaluation, such as: slimsweep technique=[]"
            )
        if base["key"] == record["key"]:
            continue
        known, identities = store.measured(base["key"]), record.get("identities") or {}
        shared = {name: identity for name, identity in identities.items() if identity in known}
        values = {name: known[identity]["values"].get(name.partition("[")[0]) for name, identity in shared.items()}
        protocols = {name: (record.get("protocols") or {}).get(name) for name in shared}
        beside = (
            base
            | dict.fromkeys(identities)
            | values
            | {"identities": shared, "protocols": protocols, "quantities": record.get("quantities")}
        )
        own = compared(beside, record, outcomes_of(store, beside), outcomes_of(store, record), ("quality",))
        found += own
        without += [] if own else [record]
    if not found:
        raise StoreError(
            "no record keeps outcomes that its base has too: measure both with the same evaluation by this version "
            "(fresh records, or another outputs_dir)"
            if without
            else "there is no record but bases: nothing to compare"
        )
    return found, without


def plain(comparisons: Sequence[Comparison], rules: Rules) -> list[dict[str, Any]]:
    """Comparisons as flat dicts, for files."""
    corrected = holm([one.result.p for one in comparisons])
    rows = []
    for one, p in zip(comparisons, corrected, strict=True):
        margin = rules.margin(one.quantity.field)
        row = {"key_a": one.first["key"], "key_b": one.second["key"], "field": one.quantity.field}
        row |= {"point": label(one.second), "model": one.second.get("model")} | dataclasses.asdict(one.result)
        row |= {"p_holm": p, "comparisons": len(comparisons), "margin": margin}
        row |= {"equivalent": None if margin is None else one.result.is_within(margin)}
        row["inner"] = [None if math.isnan(end) else end for end in one.result.inner]
        rows.append({name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()})
    return rows


def table_of(comparisons: Sequence[Comparison], rules: Rules, names: tuple[str, str]) -> Table:
    """Table with a row for each comparison: both values, better, worse and same items, difference, interval and p."""
    table = Table(notes=[f"A: {names[0]}", f"B: {names[1]}"])
    results = [one.result for one in comparisons]
    firsts, seconds = [label(one.first) for one in comparisons], [label(one.second) for one in comparisons]
    if firsts != seconds:
        table.add("A", firsts, True)
    table.add("B" if firsts != seconds else "point", seconds, True)
    if len({one.second.get("model") for one in comparisons}) > 1:
        table.add("model", [one.second.get("model") or "" for one in comparisons], True)
    table.add("settings", distinctions([one.second for one in comparisons]), True)
    table.add("quantity", [one.quantity.title for one in comparisons], True)
    for heading, side in (("A value", "first"), ("B value", "second")):
        table.add(heading, [one.quantity.text(getattr(one.result, side)) for one in comparisons])
    table.add("better", [str(one.better) for one in results])
    table.add("worse", [str(one.worse) for one in results])
    table.add("same", [str(one.same) for one in results])
    table.add("difference", [_signed(one.quantity, one.result.difference) for one in comparisons])
    table.add(f"{LEVEL:.0%} interval", [_interval(one.quantity, one.result) for one in comparisons])
    table.add("p", [_p(one.p) for one in results])
    if any(one.sacrebleu_p is not None for one in results):
        table.add("sacrebleu's p", ["" if one.sacrebleu_p is None else _p(one.sacrebleu_p) for one in results])
    if rules.corrects:
        table.add("p (Holm)", [_p(p) for p in holm([one.p for one in results])])
    if rules.margins:
        table.add("equivalent", [_equivalent(one, rules) for one in comparisons])
    table.notes += _notes(comparisons, rules)
    return table


def _signed(quantity: Quantity, value: float) -> str:
    return "-" if math.isnan(value) else format(value, "+.3g" if quantity.format == "short" else f"+{quantity.format}")


def _interval(quantity: Quantity, result: Paired) -> str:
    return f"{_signed(quantity, result.low)} to {_signed(quantity, result.high)}"


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _equivalent(one: Comparison, rules: Rules) -> str:
    margin = rules.margin(one.quantity.field)
    return "" if margin is None else f"{'yes' if one.result.is_within(margin) else 'no'} (±{margin:g})"


def _notes(comparisons: Sequence[Comparison], rules: Rules) -> list[str]:
    count = len(comparisons)
    methods = {one.result.method: None for one in comparisons}
    notes = [
        "better, worse, same: items (questions, segments, windows) on which B is so beside A; of questions, those that "
        "flipped each way",
        *(f"{', '.join(_fields(comparisons, method))}: {method}" for method in methods),
    ]
    if rules.corrects:
        notes.append(f"Holm: corrected for {count} comparisons")
    elif count > 1:
        notes.append(
            f"{count} comparisons: without any difference {0.05 * count:.2g} p below 0.05 are expected (--holm)"
        )
    if rules.margins:
        notes.append("equivalent: the 90 % interval lies within the margin (two one-sided tests at 5 %)")
    return notes


def _fields(comparisons: Sequence[Comparison], method: str) -> list[str]:
    return list(dict.fromkeys(one.quantity.field for one in comparisons if one.result.method == method))
