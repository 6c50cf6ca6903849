"""The best experiments under a budget, the Pareto front around them, and whether the lead is real."""

import math
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimsweep.errors import StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.export.suggestion import suggested_format
from slimsweep.hints import allowed_names
from slimsweep.records.divergence import base_value
from slimsweep.records.exported import export_of, holder_of, origin_key, outcomes_of
from slimsweep.records.front import front
from slimsweep.records.paired import Paired
from slimsweep.records.points import Record, seed_groups, titles
from slimsweep.records.quantities import in_group, of_kind
from slimsweep.records.store import Store
from slimsweep.records.table import SHOWN_KEY
from slimsweep.reports.budget import Limit
from slimsweep.reports.noise import compare, digits
from slimsweep.reports.selection import meaningful

BITS_OF_A_FILE = 4.5
"""Bits for each weight of the smallest GGUF type that needs no other package, Q4_0."""
SHOWN_PROTOCOLS = 4
"""Protocols that a refusal lists."""


@dataclass(frozen=True)
class Experiment:
    """Records that differ only in their seed, as one choice: its values are means."""

    records: tuple[Record, ...]
    title: str

    @property
    def key(self) -> str:
        """Key of its first record, which tells it from other experiments."""
        return self.records[0]["key"]

    def value(self, one: Quantity) -> float | None:
        """Mean of a quantity; None where a record lacks it."""
        values = [record.get(one.field) for record in self.records]
        return None if None in values else statistics.fmean(values)

    def nearest(self, one: Quantity) -> Record:
        """The record whose value is nearest to the mean: neither the luckiest seed nor the unluckiest."""
        mean = self.value(one)
        return min(self.records, key=lambda record: abs(record[one.field] - mean))


@dataclass(frozen=True)
class Bound:
    """A limit on one quantity, with its bound for each experiment that measured it."""

    limit: Limit
    quantity: Quantity
    bounds: dict[str, float]
    """Bounds by the key of an experiment."""

    def excess(self, experiment: Experiment) -> float:
        """Relative distance by which an experiment misses the bound; at most 0 where it meets it."""
        return self.limit.excess(experiment.value(self.quantity), self.bounds[experiment.key])


@dataclass(frozen=True)
class Recommendation:
    """The answer: experiments that meet every limit, best first, and what speaks for the first."""

    quality: Quantity
    size: Quantity
    """Cost that the Pareto front, and the price of the next unit, are counted in."""
    wants_small: bool
    """Whether the smallest is best, because every limit is one on quality; else the best quality."""
    bounds: list[Bound]
    ranked: list[Experiment]
    front: list[Experiment]
    """Front of size and quality of all experiments, by growing size."""
    lead: Paired | None = None
    """Comparison of the runner-up (second) with the choice (first), item by item, in the records of `tested`."""
    tested: tuple[Record, ...] = ()
    """One record of the choice and one of the runner-up, where there is one: of one seed if both have it."""
    left_out: list[str] = field(default_factory=list)

    @property
    def choice(self) -> Experiment:
        """The best experiment."""
        return self.ranked[0]

    @property
    def is_lead_opposite(self) -> bool:
        """Whether the tested records differ the other way than the means that ranked their experiments."""
        if self.lead is None or self.runner_up is None:
            return False
        return self.lead.difference * (self.runner_up.value(self.quality) - self.choice.value(self.quality)) < 0

    @property
    def runner_up(self) -> Experiment | None:
        """The second best."""
        return self.ranked[1] if len(self.ranked) > 1 else None

    def neighbour(self, step: int) -> Experiment | None:
        """The next larger (1) or smaller (-1) experiment on the front; None where there is none.

        A choice that another limit keeps off the front is compared with those of the front that are larger, or smaller.
        """
        size = self.choice.value(self.size)
        beyond = [one for one in self.front if step * (one.value(self.size) - size) > 0]
        return (beyond[0] if step > 0 else beyond[-1]) if beyond else None


def recommend(
    store: Store, records: Sequence[Record], limits: Sequence[Limit], quality: str = "", outputs: Path | None = None
) -> Recommendation:
    """The best experiments among records that meet all limits.

    Args:
        records: those of jobs, and of exported files that were measured.
        quality: field or heading of the quality that decides; empty: the first one that was measured.
        outputs: the output folder as it was given on the command line, for advice; None: the default one.

    Raises:
        StoreError: no record says anything, a limit or a quality was measured by unknown or several protocols or not at
            all, or no experiment meets the limits.
    """
    records = _usable(records)
    judged = _quality(records, quality)
    limited = [(limit, one) for limit in limits for one in limit.quantities(records)]
    size = next((one for limit, one in limited if one.group != "quality"), None) or _size(records)
    refuse_protocols(store, records, [judged, size, *(one for _, one in limited)])
    names = titles(records)
    every = [Experiment(tuple(group), _title(group, names)) for group in seed_groups(records)]
    needed = [judged, size, *(one for _, one in limited)]
    every, left_out = _rivals(every, needed)
    whole = [one for one in every if all(one.value(wanted) is not None for wanted in needed)]
    if not whole:
        raise StoreError(f"no record has all of {', '.join(dict.fromkeys(one.title for one in needed))}")
    bounds = [_bound(store, limit, one, whole, records) for limit, one in limited]
    ranked = [one for one in whole if all(bound.excess(one) <= 0 for bound in bounds)]
    if not ranked:
        raise StoreError(_nearest(whole, bounds) + _smaller_file(whole, bounds, judged, outputs))
    wants_small = all(one.group == "quality" for _, one in limited)
    order = _by_size(size, judged) if wants_small else _by_quality(size, judged)
    ranked.sort(key=order)
    points = [(_signed(size, one.value(size), True), one.value(judged)) for one in whole]
    on_front = [whole[place] for place in front(points, judged.higher_is_better is True)]
    tested = _tested(judged, *ranked[:2]) if len(ranked) > 1 else ()
    lead = compare(judged, *(outcomes_of(store, one) for one in tested)) if tested else None
    left_out += [f"{one.title}: {_missing(one, needed)}" for one in every if one not in whole]
    return Recommendation(judged, size, wants_small, bounds, ranked, on_front, lead, tested, left_out)


def _rivals(every: Sequence[Experiment], needed: Sequence[Quantity]) -> tuple[list[Experiment], list[str]]:
    """Experiments that may be compared with each other, and sentences on exported files that may not.

    Files that have every number of their record are no further choice: an `hf` export of plain weights is one. Files
    of one seed are not set against means of several: a lucky seed would win.
    """
    origins = {record["key"]: one for one in every for record in one.records if not export_of(record)}
    kept, left_out = [], []
    for one in every:
        origin = origins.get(origin_key(one.records[0])) if export_of(one.records[0]) else None
        if origin and len(one.records) < len(origin.records):
            count = f"{len(one.records)} of the {len(origin.records)} seeds of its record"
            left_out.append(f"{one.title}: measured for {count}; measure the others too (slim export ... --measure)")
        elif origin is None or any(one.value(wanted) != origin.value(wanted) for wanted in needed):
            kept.append(one)
    return kept, left_out


def _usable(records: Sequence[Record]) -> list[Record]:
    """Records that say something of a model.

    Raises:
        StoreError: there is none.
    """
    if not records:
        raise StoreError("there is no record to choose from. Run: slimsweep +sweeps=unstructured")
    if not (kept := meaningful(records)):
        raise StoreError("every record is of random weights that nothing trained: they say nothing of a real model")
    return kept


def _quality(records: Sequence[Record], name: str) -> Quantity:
    """The quality that decides.

    Raises:
        StoreError: none was measured, or none has that name.
    """
    measured = [
        one
        for one in in_group(records, "quality")
        if one.higher_is_better is not None and any(record.get(one.field) is not None for record in records)
    ]
    if not measured:
        raise StoreError("no record measured a quality, such as a perplexity. Run the sweep with evaluation=quick")
    fitting = [one for one in measured if name in ("", one.field, one.title)]
    if not fitting:
        known = allowed_names(name, [one.field for one in measured], "Measured")
        raise StoreError(f"--quality {name}: no record measured it. {known}")
    return fitting[0]


def _size(records: Sequence[Record]) -> Quantity:
    """Size of the weights.

    Raises:
        StoreError: none was measured.
    """
    if found := of_kind(records, "size"):
        return found[0]
    raise StoreError(
        "no record measured a size. Run the sweep with evaluation=quick, or: slim amend SWEEP +metric=size"
    )


def refuse_protocols(store: Store, records: Sequence[Record], used: Iterable[Quantity]) -> None:
    """Raise StoreError where a quantity was measured by several protocols, or a quality by an unknown one.

    Times and memory must also come from one kind of machine: the processor counts where the store knows it.
    """
    faults = []
    for one in {one.field: one for one in used}.values():
        measured = [record for record in records if record.get(one.field) is not None]
        counts: dict[str | None, int] = {}
        for record in measured:
            protocol = (record.get("protocols") or {}).get(one.field)
            counts[protocol] = counts.get(protocol, 0) + 1
        if one.group == "quality" and None in counts:
            faults.append(f"{one.title} of {counts[None]} records has no protocol: nobody knows how it was measured")
        elif len(counts) > 1:
            faults.append(f"{one.title} was measured by {len(counts)} protocols: {_listed(counts)}")
        if one.varies:
            faults += _machine_faults(one, [_ran_on(store, record, one) for record in measured])
    if faults:
        raise StoreError(
            "these records must not be compared. "
            + "; ".join(faults)
            + ". Name sweeps that were measured alike, or measure them again by one protocol: slim amend SWEEP ..."
        )


def _machine_faults(one: Quantity, ran_on: Sequence[dict[str, Any]]) -> list[str]:
    """Reason why a quantity was not measured on one machine; a processor that is not known counts as any."""
    machines = {f"{ran.get('device')} with {ran.get('threads')} threads" for ran in ran_on}
    processors = {ran["processor"] for ran in ran_on if ran.get("processor")}
    several = machines if len(machines) > 1 else processors
    return [f"{one.title} was measured on {' and on '.join(sorted(several))}"] if len(several) > 1 else []


def _ran_on(store: Store, record: Record, one: Quantity) -> dict[str, Any]:
    """Machine of a measurement: device and threads, and the processor where its measurement is in the store."""
    identity = (record.get("identities") or {}).get(one.field)
    measured = holder_of(store, record).measured(record["key"]).get(identity) if identity else None
    return {name: record.get(name) for name in ("device", "threads")} | ((measured or {}).get("ran_on") or {})


def _listed(counts: dict[str | None, int]) -> str:
    texts = [f"{protocol or 'none'} ({count} records)" for protocol, count in counts.items()]
    return "; ".join(texts[:SHOWN_PROTOCOLS]) + (" and others" if len(texts) > SHOWN_PROTOCOLS else "")


def _title(group: Sequence[Record], names: dict[str, str]) -> str:
    """Title of an experiment: that of its record, without the seed where there are several."""
    title, seed = names[group[0]["key"]], f" seed {group[0].get('seed')}"
    return title if len(group) == 1 else f"{title.replace(seed, '')} (mean of {len(group)} seeds)"


def _bound(store: Store, limit: Limit, one: Quantity, whole: Sequence[Experiment], records: Sequence[Record]) -> Bound:
    """Bound of every experiment.

    Raises:
        StoreError: it depends on the dense model, which was not measured alike.
    """
    bounds, lost = {}, []
    for experiment in whole:
        base = base_value(store, experiment.records[0], one, records) if limit.share else None
        if limit.share and base is None:
            lost.append(experiment.title)
        bounds[experiment.key] = limit.bound(base)
    if lost:
        raise StoreError(
            f"{limit.option} needs the {one.title} of the dense model by the same protocol, which {lost[0]} lacks. "
            "Run the dense model with the same model, dtype and evaluation settings: slimsweep 'technique=[]' ..."
        )
    return Bound(limit, one, bounds)


def _signed(one: Quantity, value: int | float, wants_low: bool) -> int | float:
    """A value that is better the lower (or, with wants_low=False, the higher) it is."""
    return value if (one.higher_is_better is not True) == wants_low else -value


def _by_size(size: Quantity, judged: Quantity):
    return lambda one: (_signed(size, one.value(size), True), _signed(judged, one.value(judged), True))


def _by_quality(size: Quantity, judged: Quantity):
    return lambda one: (_signed(judged, one.value(judged), True), _signed(size, one.value(size), True))


def _tested(judged: Quantity, first: Experiment, second: Experiment) -> tuple[Record, Record]:
    """A record of each experiment, of one seed where both have it: that nearest to the mean of the first."""
    own = first.nearest(judged)
    same = [record for record in second.records if record.get("seed") == own.get("seed")]
    return own, same[0] if same else second.nearest(judged)


def _missing(experiment: Experiment, needed: Sequence[Quantity]) -> str:
    lacks = dict.fromkeys(one.title for one in needed if experiment.value(one) is None)
    return f"{', '.join(lacks)} not measured"


def _nearest(whole: Sequence[Experiment], bounds: Sequence[Bound]) -> str:
    """Message on the experiment that comes nearest to a budget which none meets."""
    near = min(whole, key=lambda one: sorted((max(bound.excess(one), 0) for bound in bounds), reverse=True))
    missed = [bound for bound in bounds if bound.excess(near) > 0]
    budget = " and ".join(dict.fromkeys(bound.limit.option for bound in bounds))
    return (
        f"none of {len(whole)} experiments meets {budget}. The nearest is {near.title} "
        f"({origin_key(near.records[0])[:SHOWN_KEY]}): {'; '.join(_miss(near, bound) for bound in missed)}"
    )


def _miss(near: Experiment, bound: Bound) -> str:
    """Distance by which an experiment misses a bound, and a word where the standard error is larger than it."""
    one, limit, target = bound.quantity, bound.limit, bound.bounds[near.key]
    word, value = ("under" if limit.is_least else "over"), near.value(one)
    excess = _percent(bound.excess(near))
    said = f"{one.title} {digits(one, value)}, {excess} {word} the {digits(one, target)} of {limit.option}"
    error = near.nearest(one).get(one.error) if one.error and len(near.records) == 1 else None
    if error is None or abs(value - target) >= error:
        return said
    return f"{said}, which is less than its standard error of {one.deviation_text(error)}: measure more items first"


def _smaller_file(whole: Sequence[Experiment], bounds: Sequence[Bound], judged: Quantity, outputs: Path | None) -> str:
    """Advice to measure the best model as a file of 4 bits; empty where none surely fits GGUF and the bytes allowed."""
    limits = [bound for bound in bounds if {"size", "file"} & set(bound.limit.kinds)]
    measured = {
        origin_key(record) for one in whole for record in one.records if export_of(record).get("format") == "gguf"
    }

    def fits(one: Experiment) -> bool:
        record = one.nearest(judged)
        small = BITS_OF_A_FILE / 8 * (record.get("parameters") or math.inf)
        is_new = not export_of(record) and record["key"] not in measured
        return is_new and suggested_format(record) == "gguf" and all(small < bound.bounds[one.key] for bound in limits)

    fitting = [one for one in whole if fits(one)]
    if not fitting or all(bound.excess(one) <= 0 for bound in limits for one in whole):
        return ""
    best = min(fitting, key=lambda one: _signed(judged, one.value(judged), True))
    folder = f" --outputs {shlex.quote(str(outputs))}" if outputs else ""
    return (
        f". Files in another format may be smaller, and count once they are measured. Of {best.title}: "
        f"slim export {best.nearest(judged)['key'][:SHOWN_KEY]} type=Q4_0 --to gguf --measure{folder}"
    )


def _percent(excess: float) -> str:
    """A relative distance: percent, or a factor where it is large."""
    return f"{100 * excess:.3g} %" if excess < 10 else f"{excess + 1:,.0f} times"
