"""A recommendation in words, and as plain values for programs."""

import dataclasses
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimsweep.evaluation.quantity import Quantity
from slimsweep.export.suggestion import suggested_format
from slimsweep.records.exported import ORIGIN, export_of, origin_key
from slimsweep.records.paired import Paired
from slimsweep.records.table import SHOWN_KEY, Table, markdown
from slimsweep.reports.noise import digits, is_real, sentence
from slimsweep.reports.recommend import Experiment, Recommendation

BEST = 3
"""Experiments that are listed as the best ones."""


def text(found: Recommendation, outputs: Path | None) -> str:
    """The answer as Markdown: choice, reasons, tables of the best and of the front, command that exports the choice.

    Args:
        outputs: the output folder as it was given on the command line; None: the default one.
    """
    count = len(found.ranked)
    lines = [f"**{found.choice.title}** ({_key(found, found.choice)})", ""]
    lines += [f"- {line}" for line in reasons(found)]
    lines += ["", f"The best {min(BEST, count)} of {count} that meet the budget:", ""]
    lines += [markdown(_table(found, found.ranked[:BEST]))]
    lines += ["", f"Pareto front of {found.size.title} and {found.quality.title}:", ""]
    lines += [markdown(_table(found, found.front)), "", "Export it:", "", f"    {command(found, outputs)}"]
    if found.left_out:
        lines += ["", "Left out, for want of a value:", "", *(f"- {line}" for line in found.left_out)]
    return "\n".join(lines)


def reasons(found: Recommendation) -> list[str]:
    """Sentences that say why: the aim, the limits, the runner-up, the next unit."""
    choice, quality, size = found.choice, found.quality, found.size
    aim = f"the smallest {size.title}" if found.wants_small else f"the best {quality.title}"
    count = len(found.ranked)
    lines = [f"It has {aim} of {count} experiments that meet the budget."]
    if count == 1:
        lines = ["It alone meets the budget."]
    for bound in found.bounds:
        one, target = bound.quantity, bound.bounds[choice.key]
        word = "at least" if bound.limit.is_least else "at most"
        lines.append(
            f"{one.title} {digits(one, choice.value(one))}, {word} {digits(one, target)} by {bound.limit.option}."
        )
    on_front = choice in found.front
    lines.append(f"It is {'' if on_front else 'not '}on the Pareto front of {size.title} and {quality.title}.")
    return [*lines, lead(found), step(found, 1), *filter(None, [step(found, -1)])]


def lead(found: Recommendation) -> str:
    """Whether the choice and the runner-up really differ in quality."""
    second, size = found.runner_up, found.size
    if second is None:
        return "There is no runner-up."
    start = f"Runner-up: {second.title}, {size.title} {digits(size, second.value(size))}."
    if found.lead is None:
        return f"{start} They keep no outcomes of the same items, so it is unknown whether the difference is real."
    words, seeds = sentence(found.quality, found.lead), _seeds(found)
    if not is_real(found.lead):
        return f"{start} The difference{seeds} may be noise: {words}. The smaller of the two is then the better choice."
    if found.is_lead_opposite:
        return f"{start} The difference{seeds} contradicts the means, so do not rely on their order: {words}."
    is_better = (found.lead.difference > 0) == (found.quality.higher_is_better is True)
    return f"{start} It is really {'better' if is_better else 'worse'}{seeds}: {words}."


def _seeds(found: Recommendation) -> str:
    """Seeds of the records that were tested, with a space before; empty where each side has one record."""
    if len(found.choice.records) == len(found.runner_up.records) == 1:
        return ""
    own, other = (record.get("seed") for record in found.tested)
    return f" in seed {own} of each" if own == other else f" in seed {own} of the choice and seed {other} of the other"


def step(found: Recommendation, direction: int) -> str:
    """Price of the next unit of the size on the front: what more of it buys (1), or what less of it costs (-1)."""
    other, size, quality = found.neighbour(direction), found.size, found.quality
    if other is None:
        return f"More {size.title} buys nothing: no larger experiment is better." if direction > 0 else ""
    more = (other.value(size) - found.choice.value(size)) / size.divisor
    change = (other.value(quality) - found.choice.value(quality)) / quality.divisor
    word, unit = ("larger", "further") if direction > 0 else ("smaller", "saved")
    return (
        f"The next {word} one on the front is {other.title}: "
        f"{size.title} {digits(size, other.value(size))} ({more:+.3g}), "
        f"{quality.title} {digits(quality, other.value(quality))} ({change:+.3g}, which is {change / abs(more):+.3g} "
        f"for each {unit} unit of {size.title})."
    )


def command(found: Recommendation, outputs: Path | None) -> str:
    """The command line that exports the choice, in a format that its record suggests."""
    record = found.choice.nearest(found.quality)
    key, made = origin_key(record)[:16], export_of(record)
    options = made.get("words", [])
    named = [made["format"], *options] if made else []
    place = "-".join([key[:SHOWN_KEY], *named]).replace("=", "-")
    words = ["slim export", key, *options, f"--to {made.get('format') or suggested_format(record)}"]
    words += [f"--output exports/{place}", *([f"--outputs {shlex.quote(str(outputs))}"] if outputs else [])]
    return " ".join(words)


def _table(found: Recommendation, experiments: Sequence[Experiment]) -> Table:
    """Key, title and every quantity that the choice depends on."""
    table = Table()
    table.add("key", [_key(found, one) for one in experiments], True)
    table.add("experiment", [one.title for one in experiments], True)
    for quantity in _shown(found):
        table.add(quantity.title, [digits(quantity, one.value(quantity)) for one in experiments])
    if found.choice in experiments and len(experiments) > 1:
        table.add("", ["chosen" if one is found.choice else "" for one in experiments], True)
    return table


def _key(found: Recommendation, experiment: Experiment) -> str:
    """Shown key of an experiment, which other commands take; of exported files that of their record."""
    return origin_key(experiment.nearest(found.quality))[:SHOWN_KEY]


def _shown(found: Recommendation) -> list[Quantity]:
    every = [found.quality, found.size, *(bound.quantity for bound in found.bounds)]
    return list({one.field: one for one in every}.values())


def plain(found: Recommendation, outputs: Path | None) -> dict[str, Any]:
    """The answer as plain values in base units, for JSON."""

    def one(experiment: Experiment) -> dict[str, Any]:
        values = {quantity.field: experiment.value(quantity) for quantity in _shown(found)}
        record, keys = experiment.nearest(found.quality), [record["key"] for record in experiment.records]
        further = {ORIGIN: record[ORIGIN], "export": export_of(record)} if export_of(record) else {}
        return {"key": record["key"], "keys": keys, "title": experiment.title} | further | values

    pair = None if found.lead is None else dataclasses.asdict(found.lead) | _tested(found, found.lead)
    larger, smaller = found.neighbour(1), found.neighbour(-1)
    return _finite(
        {
            "choice": one(found.choice),
            "command": command(found, outputs),
            "reasons": reasons(found),
            "quality": found.quality.field,
            "size": found.size.field,
            "limits": [
                {"limit": bound.limit.option, "field": bound.quantity.field, "bound": bound.bounds[found.choice.key]}
                for bound in found.bounds
            ],
            "ranked": [one(experiment) for experiment in found.ranked],
            "front": [one(experiment) for experiment in found.front],
            "difference_to_runner_up": pair,
            "next_larger": larger and one(larger),
            "next_smaller": smaller and one(smaller),
            "left_out": found.left_out,
        }
    )


def _tested(found: Recommendation, pair: Paired) -> dict[str, Any]:
    """Records that a comparison is of, and whether its difference is real; never where the means say the opposite."""
    agrees = not found.is_lead_opposite
    keys = [record["key"] for record in found.tested]
    return {"keys": keys, "agrees_with_means": agrees, "is_real": is_real(pair) and agrees}


def _finite(value: Any) -> Any:
    """The same value with null for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
