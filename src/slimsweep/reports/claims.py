"""Claims of publications, each tested by the records of a sweep: supported, contradicted or not run.

A claim of `records/claims.yaml` states its test as data, so that one evaluator serves all:

    - claim: Eight bits make BERT four times smaller.
      source: who claims it
      sweep: counts
      of: {model: bert_base, technique: int8}             # records that it speaks of (reports/selection.py)
      relative_to: {model: bert_base, technique: dense}   # records that their values are divided by, or less
      pair: [dtype]                                       # fields that both share, beside protocol and model
      given: [{field: parameters, by: quotient, at_most: 1}]  # measures that say which records it speaks of
      need: every                                         # every record must pass, or any
      measures:                                           # a record passes where all of them hold
        - {field: weight_bytes, by: quotient, at_most: 0.25}

`not_run: REASON` stands in the place of the test where a claim has none here.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from slimsweep.checks import choice_faults, is_number
from slimsweep.errors import StoreError
from slimsweep.paths import config_root
from slimsweep.records.points import Record, label
from slimsweep.records.quantities import quantities_of, quantity
from slimsweep.records.table import Table
from slimsweep.reports import selection

SUPPORTED, CONTRADICTED, NOT_RUN = "supported", "contradicted", "not run"
CALCULATIONS = ("value", "quotient", "difference", "beside")
NEEDS = ("every", "any")
LIMITS = ("at_least", "at_most", "apart")
ALWAYS = {"claim", "source"}
TIME = "_seconds"
"""End of the fields that hold a time of a job, which is another on other hardware."""
TESTED = ALWAYS | {"sweep", "of", "relative_to", "pair", "given", "need", "measures", "note"}


@dataclass(frozen=True)
class Measure:
    """One condition on a record: a field, or what it is beside that of another record, within limits."""

    field: str
    """A field; with `*`, each quality that fits."""
    by: str = "value"
    """One of CALCULATIONS; `beside` is the value of the record that one is compared with."""
    at_most: int | float = math.inf
    at_least: int | float = -math.inf
    apart: int | float = 0.0
    """Least distance of a quotient from 1, or of a difference from 0."""

    def margin(self, value: int | float) -> int | float:
        """Distance to the nearest limit; negative where the condition does not hold."""
        middle = 1 if self.by == "quotient" else 0
        return min(self.at_most - value, value - self.at_least, abs(value - middle) - self.apart)

    @property
    def threshold(self) -> str:
        """The condition in words: `weight bytes: quotient at most 0.25`."""
        words = {"at_most": "at most", "at_least": "at least", "apart": "apart by"}
        given = {name: getattr(self, name) for name in LIMITS}
        is_none = {"at_least": -math.inf, "at_most": math.inf, "apart": 0}
        limits = [f"{words[name]} {limit:g}" for name, limit in given.items() if limit != is_none[name]]
        if self.at_least == self.at_most:
            limits = [f"exactly {self.at_least:g}"]
        return " ".join([f"{self.field.replace('_', ' ')}:", *([self.by] * (self.by != "value")), " and ".join(limits)])


@dataclass(frozen=True)
class Claim:
    """A claim, and its test or the reason why there is none."""

    claim: str
    source: str
    sweep: str = ""
    of: Mapping[str, Any] | None = None
    relative_to: Mapping[str, Any] | None = None
    pair: tuple[str, ...] = ()
    given: tuple[Measure, ...] = ()
    """Conditions that choose among the records of the filter: those of others say nothing of the claim."""
    need: str = "every"
    measures: tuple[Measure, ...] = ()
    not_run: str = ""
    note: str = ""


@dataclass(frozen=True)
class Trial:
    """One record put to the test: a value for each measure."""

    record: Record
    values: tuple[int | float, ...]
    fields: tuple[str, ...]
    """The field that each value is of, without `*`."""
    margin: int | float
    """Smallest margin of the measures; negative where one does not hold."""


@dataclass(frozen=True)
class Verdict:
    """A claim, and what the records say of it."""

    claim: Claim
    trials: tuple[Trial, ...]
    reason: str = ""
    """Reason why a claim was not run; empty where it was."""

    @property
    def word(self) -> str:
        if not self.trials:
            return NOT_RUN
        passed = [trial.margin >= 0 for trial in self.trials]
        return SUPPORTED if (all(passed) if self.claim.need == "every" else any(passed)) else CONTRADICTED

    @property
    def decisive(self) -> Trial | None:
        """The record that decides: the worst where every one must pass, else the best."""
        if not self.trials:
            return None
        choose = min if self.claim.need == "every" else max
        return choose(self.trials, key=lambda trial: trial.margin)


def read(file: Path | None = None) -> list[Claim]:
    """The claims, in the order of the file.

    Raises:
        StoreError: entries that are incomplete or misspelt, all at once.
    """
    file = file or config_root() / "records" / "claims.yaml"
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    faults = [fault for entry in entries for fault in _faults(entry)]
    if faults:
        raise StoreError(f"{file}: {'; '.join(faults)}")
    return [
        Claim(
            **{name: value for name, value in entry.items() if name not in ("measures", "given", "pair")},
            pair=tuple(entry.get("pair", ())),
            given=tuple(Measure(**measure) for measure in entry.get("given", ())),
            measures=tuple(Measure(**measure) for measure in entry.get("measures", ())),
        )
        for entry in entries
    ]


def _faults(entry: Mapping[str, Any]) -> list[str]:
    """Faults of one claim: missing and unknown words, unknown calculations, limits that are no numbers."""
    place = f"claim {entry.get('claim', entry)!r}"
    is_tested = "not_run" not in entry
    needed = ALWAYS | ({"sweep", "of", "measures"} if is_tested else set())
    allowed = TESTED if is_tested else ALWAYS | {"not_run"}
    faults = [f"{place} has no {name}" for name in sorted(needed - set(entry))]
    unknown = sorted(set(entry) - allowed)
    faults += [f"{place} has the unknown word {name!r}: give {', '.join(sorted(allowed))}" for name in unknown]
    faults += choice_faults(f"need of {place}", [entry.get("need", "every")], NEEDS)
    if sum("*" in str(measure.get("field")) for measure in entry.get("measures", ())) > 1:
        faults.append(f"{place} has * in more than one measure, whose fields would be paired by chance: give names")
    if "*" in "".join(str(measure.get("field")) for measure in entry.get("given", ())):
        faults.append(f"{place} has * in given, which takes one field: give its name")
    for measure in (*entry.get("given", ()), *entry.get("measures", ())):
        is_time = str(measure.get("field")).endswith(TIME) and "relative_to" in entry
        if is_time and not {"device", "threads"} <= set(entry.get("pair", ())):
            faults.append(f"{place} compares times: add device and threads to pair")
        unknown = set(measure) - {"field", "by", *LIMITS}
        faults += [f"a measure of {place} has the unknown word {name!r}" for name in unknown]
        faults += choice_faults(f"by of {place}", [measure.get("by", "value")], CALCULATIONS)
        limits = [measure[name] for name in LIMITS if name in measure]
        if "field" not in measure or not limits or not all(map(is_number, limits)):
            faults.append(f"a measure of {place} needs a field and a limit: {', '.join(LIMITS)}")
        if measure.get("by", "value") != "value" and "relative_to" not in entry:
            faults.append(f"{place}: quotient, difference and beside need relative_to")
    measured = {measure.get("by", "value") for measure in entry.get("measures", ())}
    if "relative_to" in entry and measured & {"value", "beside"}:
        faults.append(f"{place} has relative_to: its measures are quotients or differences")
    return faults


def judge(claims: Iterable[Claim], records: Mapping[str, Sequence[Record]]) -> list[Verdict]:
    """Verdict on each claim by the records of its sweep.

    Args:
        records: by name of the sweep; a sweep that was not launched is absent.
    """
    known = {sweep: selection.meaningful(found) for sweep, found in records.items()}
    verdicts = []
    for claim in claims:
        found = known.get(claim.sweep, [])
        trials = tuple(_trials(claim, found))
        verdicts.append(Verdict(claim, trials, "" if trials else _reason(claim, found)))
    return verdicts


def _reason(claim: Claim, records: Sequence[Record]) -> str:
    """Reason why a claim has no trial: no record, none to compare with, none that fits `given`, or nothing measured."""
    if claim.not_run:
        return claim.not_run
    place = f"the sweep {claim.sweep}"
    named = selection.matching(records, claim.of or {})
    if not named:
        return f"{place} has no record of {_records_in_words(claim.of or {})}: make {claim.sweep}"
    paired = [(record, _beside(claim, record, records)) for record in named]
    if claim.relative_to is not None:
        paired = [(record, beside) for record, beside in paired if beside]
        if not paired:
            shared = f", with equal {' and '.join(_shared(claim))}" if _shared(claim) else ""
            others = f"{_records_in_words(claim.relative_to)} to compare {len(named)} with{shared}"
            return f"{place} has no record of {others}: make {claim.sweep}"
    if not any(_is_given(claim.given, record, beside) for record, beside in paired):
        wanted = "; ".join(measure.threshold for measure in claim.given)
        return f"none of {len(paired)} records of {place} is one that the claim speaks of ({wanted})"
    fields = " and ".join(measure.field for measure in claim.measures)
    if _is_divided_by_zero(claim, paired):
        return f"{fields} is 0 in the records of {place} that others are divided by: no quotient"
    with_pair = "" if claim.relative_to is None else " by the protocol of one beside it"
    return f"no record of {place} measured {fields}{with_pair}: make {claim.sweep}"


def _is_divided_by_zero(claim: Claim, paired: Iterable[tuple[Record, list[Record]]]) -> bool:
    """Whether a quotient of a claim has a base of 0 by the same protocol, so that there is none."""
    return any(
        other.get(field) == 0 and selection.protocol(other, field) == selection.protocol(record, field)
        for record, beside in paired
        for measure in claim.measures
        if measure.by == "quotient"
        for field in _fields(measure, record)
        if is_number(record.get(field))
        for other in beside
    )


def _records_in_words(where: Mapping[str, Any]) -> str:
    """A filter in words with its models: `bert_base, int8, dtype float32`."""
    models = selection.text({"technique": where["model"]}) if "model" in where else ""
    return ", ".join(words for words in (models, selection.text(where)) if words) or "any kind"


def _trials(claim: Claim, records: Sequence[Record]) -> list[Trial]:
    """A trial for each record that a claim speaks of and that all measures can be taken of."""
    if not claim.measures:
        return []
    trials = []
    for record in selection.matching(records, claim.of or {}):
        beside = _beside(claim, record, records)
        if not _is_given(claim.given, record, beside):
            continue
        choices = [_fields(measure, record) for measure in claim.measures]
        for fields in zip(*_stretched(choices), strict=True):
            taken = [
                _taken(measure, field, record, beside) for measure, field in zip(claim.measures, fields, strict=True)
            ]
            values = tuple(value for value in taken if value is not None)
            if len(values) == len(claim.measures):
                margin = min(measure.margin(value) for measure, value in zip(claim.measures, values, strict=True))
                trials.append(Trial(record, values, fields, margin))
    return trials


def _is_given(given: Iterable[Measure], record: Record, beside: Sequence[Record]) -> bool:
    """Whether a record fulfils the conditions of a claim."""
    taken = [(measure, _taken(measure, measure.field, record, beside)) for measure in given]
    return all(value is not None and measure.margin(value) >= 0 for measure, value in taken)


def _stretched(choices: list[list[str]]) -> list[list[str]]:
    """Fields of each measure, those of a single field repeated beside the one with `*`."""
    longest = max(map(len, choices))
    return [fields * longest if len(fields) == 1 else fields for fields in choices] if all(choices) else [[]]


def _beside(claim: Claim, record: Record, records: Sequence[Record]) -> list[Record]:
    """Records that a claim compares one with; none where it compares with nothing."""
    others = selection.matching(records, claim.relative_to) if claim.relative_to else []
    return [
        other
        for other in others
        if all(selection.value_of(record, name) == selection.value_of(other, name) for name in _shared(claim))
    ]


def _shared(claim: Claim) -> tuple[str, ...]:
    """Fields that a record and one beside it have alike."""
    return claim.pair if "model" in (claim.relative_to or {}) else ("model", *claim.pair)


def _fields(measure: Measure, record: Record) -> list[str]:
    """Fields of a record that a measure speaks of."""
    if "*" not in measure.field:
        return [measure.field]
    qualities = [each.field for each in quantities_of([record]).values() if each.group == "quality"]
    return [field for field in qualities if fnmatchcase(field, measure.field) and record.get(field) is not None]


def _taken(measure: Measure, field: str, record: Record, others: Iterable[Record]) -> int | float | None:
    """Value of a measure; None where the record or those beside it have none by one protocol."""
    value = record.get(field)
    if not is_number(value) or measure.by == "value":
        return value if is_number(value) else None
    known = selection.protocol(record, field)
    beside = [
        other[field] for other in others if is_number(other.get(field)) and selection.protocol(other, field) == known
    ]
    if not beside:
        return None
    base = statistics.fmean(beside)
    if measure.by == "beside":
        return base
    if measure.by == "difference":
        return value - base
    return value / base if base else None


def rows(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as flat rows, for csv and json."""
    return [
        {
            "claim": verdict.claim.claim,
            "verdict": verdict.word,
            "threshold": _threshold(verdict.claim),
            "measured": list(verdict.decisive.values) if verdict.decisive else None,
            "record": verdict.decisive.record["key"] if verdict.decisive else None,
            "passed": sum(trial.margin >= 0 for trial in verdict.trials),
            "records": len(verdict.trials),
            "sweep": verdict.claim.sweep or None,
            "source": verdict.claim.source,
            "reason": verdict.reason or None,
        }
        for verdict in verdicts
    ]


def table(verdicts: Sequence[Verdict]) -> Table:
    """Claims with their threshold, what was measured, and the verdict. Sources and reasons stand in notes."""
    shown = Table()
    sources = list(dict.fromkeys(verdict.claim.source for verdict in verdicts))
    shown.add("#", [str(number) for number in range(1, len(verdicts) + 1)])
    shown.add("claim", [verdict.claim.claim for verdict in verdicts], True)
    shown.add("source", [f"[{sources.index(verdict.claim.source) + 1}]" for verdict in verdicts], True)
    shown.add("sweep", [verdict.claim.sweep for verdict in verdicts], True)
    shown.add("threshold", [_threshold(verdict.claim) for verdict in verdicts], True)
    shown.add("measured", [_measured(verdict) for verdict in verdicts], True)
    shown.add("records", [_count(verdict) for verdict in verdicts], True)
    shown.add("verdict", [verdict.word for verdict in verdicts], True)
    words = [verdict.word for verdict in verdicts]
    shown.notes.append(", ".join(f"{words.count(word)} {word}" for word in (SUPPORTED, CONTRADICTED, NOT_RUN)))
    shown.notes.append("measured: the record that decides, the worst where every one must pass, else the best")
    shown.footnotes += [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    for number, verdict in enumerate(verdicts, 1):
        shown.notes += [f"claim {number}: {text}" for text in (verdict.reason, verdict.claim.note) if text]
    return shown


def _threshold(claim: Claim) -> str:
    """All conditions of a claim in words, and after "where" those that choose its records."""
    texts = ["; ".join(measure.threshold for measure in measures) for measures in (claim.measures, claim.given)]
    return " where ".join(text for text in texts if text)


def _measured(verdict: Verdict) -> str:
    trial = verdict.decisive
    if trial is None:
        return ""
    texts = []
    for measure, field, value in zip(verdict.claim.measures, trial.fields, trial.values, strict=True):
        shown = quantity(field, [trial.record])
        form = {"quotient": f"x {value:.4g}", "difference": f"{value:+.4g}"}.get(measure.by)
        texts.append(f"{field.replace('_', ' ')} {form}" if form else f"{shown.title} {shown.text(value)}")
    return f"{', '.join(texts)} ({trial.record['model']}, {label(trial.record)})"


def _count(verdict: Verdict) -> str:
    passed = sum(trial.margin >= 0 for trial in verdict.trials)
    return f"{passed} of {len(verdict.trials)}, {verdict.claim.need} needed" if verdict.trials else ""
