"""From records to lines: what may share an axis, what is one line, and its mean and spread over seeds."""

import hashlib
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slimsweep.evaluation.quantity import Quantity
from slimsweep.records.points import Record, distinctions
from slimsweep.records.quantities import quantities_of

DENSE = "dense"
Place = tuple[int | float, int | float]
"""x and ratio of a point."""


@dataclass(frozen=True)
class Panel:
    """Records that may share an axis: one model, one protocol."""

    quantity: Quantity
    """The quantity that was measured."""
    name: str
    """Corpus or task that was measured."""
    suffix: str
    """Appended to the file's stem; empty where all records share one axis."""
    title: str
    """Model and protocol in words."""
    protocol: str
    """Id of the protocol, empty where the metric tells none; a footnote of the figure has it."""
    records: list[Record]

    @property
    def field(self) -> str:
        """The record field that was measured."""
        return self.quantity.field

    @property
    def stem(self) -> str:
        """End of the figure's file name."""
        return f"{self.name}{self.suffix}"


@dataclass(frozen=True)
class Point:
    """One place on a line: the mean of its seeds."""

    x: int | float
    y: float
    deviation: float
    """Sample standard deviation over seeds; 0 for a single one."""
    count: int
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Line:
    """One technique, or one variant of it, in order of x."""

    label: str
    points: tuple[Point, ...]
    unmeasured: tuple[int | float, ...]
    """x of points whose y is null (overflow)."""


def log_quality(quantity: Quantity) -> bool:
    """Whether a quantity is one of quality with a logarithmic axis, such as a perplexity."""
    return quantity.group == "quality" and quantity.scale == "log"


def linear_quality(quantity: Quantity) -> bool:
    """Whether a quantity is one of quality with a linear axis, such as an accuracy."""
    return quantity.group == "quality" and quantity.scale == "linear"


def is_speedup(quantity: Quantity) -> bool:
    """Whether a quantity is a speed divided by that of the dense model."""
    return quantity.kind == "speedup"


def panels(records: Iterable[Record], is_shown: Callable[[Quantity], bool]) -> list[Panel]:
    """Split records into panels, in order of field: every shown quantity that some record measured.

    Different models, or different protocols of one field, never share a panel; where there are several, each
    says so in its title and its suffix.
    """
    records = list(records)
    return [panel for quantity, name in shown(records, is_shown) for panel in _panels_of(records, quantity, name)]


def shown(records: list[Record], is_shown: Callable[[Quantity], bool]) -> list[tuple[Quantity, str]]:
    """Quantities of records that a figure shows, in order of field, each with the name of its file.

    Where two have one name, such as a corpus that two metrics measure, the later ones are named by their fields.
    """
    quantities = sorted(filter(is_shown, quantities_of(records).values()), key=lambda one: (one.place, one.field))
    names: dict[str, Quantity] = {}
    for one in quantities:
        names[one.field if one.stem in names else one.stem] = one
    return [(one, name) for name, one in sorted(names.items(), key=lambda item: item[1].field)]


def protocol_of(record: Record, field: str) -> str | None:
    """Protocol of a measured field, empty where its metric tells none; None where it was not measured."""
    protocol = (record.get("protocols") or {}).get(field)
    return "" if protocol is None and record.get(field) is not None else protocol


def _panels_of(records: list[Record], quantity: Quantity, name: str) -> list[Panel]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        protocol = protocol_of(record, quantity.field)
        if protocol is not None:
            groups.setdefault((model_label(record), protocol), []).append(record)
    models = {model for model, _ in groups}
    found = []
    for (model, protocol), members in sorted(groups.items()):
        others = distinguished({other for owner, other in groups if owner == model})
        title, parts = f"{model}\n{protocol_label(protocol)}".strip(), [model] * (len(models) > 1)
        if len(others) > 1:
            title += f" ({others[protocol]})"
            parts.append(others[protocol])
        found.append(Panel(quantity, name, "".join(f"_{file_word(part)}" for part in parts), title, protocol, members))
    return found


def model_label(record: Record) -> str:
    """The model as a title names it: `smollm2_135m, dequantised Q4_1`."""
    words = [record["model"], record.get("baseline")]
    if record.get("weights", "trained") != "trained":
        words.append(f"{record['weights']} weights")
    return ", ".join(word for word in words if word)


def protocol_label(protocol: str) -> str:
    """A protocol id in words: `wikitext2 test, 16 windows of 512 tokens`.

    Digests, and a split that is more than a word, stay in the footnote and in the record.
    """
    words = _parts(protocol)
    named = dict(word.split("=", 1) for word in words if "=" in word)
    split = [word for word in words[1:2] if re.fullmatch(r"[\w-]+", word)]
    text = " ".join([words[0].replace("_", " "), *split])
    if {"ctx", "windows"} <= named.keys():
        return f"{text}, {named['windows']} windows of {named['ctx']} tokens"
    shown = [f"{name} {named[name]}" for name in ("ctx", "windows", "limit") if name in named]
    return ", ".join([text, *shown])


def _parts(protocol: str) -> list[str]:
    """The parts of a protocol id; a colon in brackets, as of `even hashes[:400]`, belongs to its part."""
    return re.split(r":(?![^\[]*\])", protocol)


def distinguished(protocols: set[str]) -> dict[str, str]:
    """For each protocol id the first of its parts that differs between all of them, else a digest."""
    split = {protocol: _parts(protocol) for protocol in protocols}
    for part in range(min((len(words) for words in split.values()), default=0)):
        if len({words[part] for words in split.values()}) == len(protocols):
            return {protocol: words[part] for protocol, words in split.items()}
    return {protocol: hashlib.sha256(protocol.encode()).hexdigest()[:8] for protocol in protocols}


def file_word(text: str) -> str:
    """A text as one word of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-")


def lines(records: Iterable[Record], x: str, y: str) -> list[Line]:
    """One line per technique, pattern and variant, sorted by label; the dense model is not among them.

    Records that differ in a knob of a stage, in calibration or in dtype are variants: they are never
    averaged, and their labels name what differs. Records that differ only in seed become one point; two ratios
    never do, even where x is the same for both.
    """
    found: dict[str, dict[Place, list[Record]]] = {}
    for label, members in variants(record for record in records if record["technique"] != DENSE).items():
        for record in members:
            if record.get(x) is not None:
                found.setdefault(label, {}).setdefault((record[x], record.get("ratio") or 0), []).append(record)
    return [_line(label, by_x, y) for label, by_x in sorted(found.items())]


def curves(records: Iterable[Record], is_shown: Callable[[Quantity], bool]) -> list[tuple[Panel, list[Line]]]:
    """Panel and lines over the ratio, for every panel that has a point to show."""
    found = [(panel, lines(panel.records, "ratio", panel.field)) for panel in panels(records, is_shown)]
    return [(panel, drawn) for panel, drawn in found if any(line.points for line in drawn)]


def _line(label: str, by_x: dict[Place, list[Record]], y: str) -> Line:
    points, unmeasured = [], []
    for (place, _), members in sorted(by_x.items()):
        values = [record[y] for record in members if record.get(y) is not None]
        if len(values) < len(members):
            unmeasured.append(place)
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            points.append(Point(place, statistics.fmean(values), deviation, len(values), tuple(members)))
    return Line(label, tuple(points), tuple(unmeasured))


def dense(records: Iterable[Record], field: str) -> dict[str, Record]:
    """The dense records that measured `field`, by label: `dense`, or `dense, dtype float32` beside others."""
    baselines = variants(record for record in records if record["technique"] == DENSE)
    return {label: members[0] for label, members in sorted(baselines.items()) if members[0].get(field) is not None}


def baselines_of(panel: Panel) -> dict[str, float]:
    """Values of the dense models of a panel, by label."""
    return {label: record[panel.field] for label, record in dense(panel.records, panel.field).items()}


def variants(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by label: technique, pattern where there is one, and the settings that differ between them."""
    records = list(records)
    found: dict[str, list[Record]] = {}
    for record, settings in zip(records, distinctions(records), strict=True):
        name = " ".join([record["technique"], *_shown(record.get("pattern"))])
        found.setdefault(", ".join(word for word in (name, settings) if word), []).append(record)
    return found


def without(records: Iterable[Record], *fields: str) -> list[Record]:
    """Records whose stages do not tell some knobs: for figures where a knob is a place on an axis, no variant."""
    found = []
    for record in records:
        stages = [
            stage | {"fields": {name: value for name, value in stage.get("fields", {}).items() if name not in fields}}
            for stage in record.get("stages") or []
        ]
        found.append(record | {"stages": stages})
    return found


def by_device(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by where they ran, `cpu-2` for two threads: times of two places never share an axis.

    Where there is only one place its name is empty.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(f"{record.get('device')}-{record.get('threads')}", []).append(record)
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    return dict(sorted(found.items()))


def _shown(pattern: str | None) -> list[str]:
    return [pattern] if pattern not in (None, "unstructured") else []
