"""Quantity: what tables, comparisons, trackers and figures must know of a measured field of a record."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slimsweep.checks import choice_faults, refuse

SCALES = ("linear", "log")
GROUPS = ("quality", "cost", "detail")
SHORT = "short"
"""Format of about four digits, whatever the size of the number."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One measured field, declared beside the metric that measures it.

    A `*` stands for the corpus or task of a metric that measures several; `named` replaces it in every text.
    """

    field: str
    """Field of the record: `gmacs`, or `perplexity_*`."""
    label: str
    """Words of an axis, without the unit."""
    unit: str = ""
    """Unit of the value in the record: bytes, s, parameters, fraction; empty for a pure number."""
    higher_is_better: bool | None = None
    """None: neither direction is better by itself."""
    scale: str = "linear"
    """Scale of its axis, linear or log. A change is shown as a difference, on a log scale in percent."""
    group: str = "detail"
    """quality: first in tables, compared, drawn over the ratio; cost: a column behind them; detail: in records only."""
    kind: str = ""
    """Word by which a figure asks for all quantities of one kind, such as speedup."""
    name: str = ""
    """Corpus, task or part that was measured: end of a figure's file name. Empty: the field."""
    heading: str = ""
    """Heading of its column. Empty: the field's words."""
    format: str = SHORT
    """Format of a value in text: a specification of Python such as .3f, or `short`."""
    divisor: int | float = 1
    """Number of base units in the unit of the table."""
    place: int = 50
    """Place among columns, from the left; equal ones stand in the order of their fields."""
    error: str = ""
    """Field of its standard error; empty: it has none."""
    seconds: str = ""
    """Field of the time that its own measurement took; empty: it has none."""
    tolerance: float | None = None
    """Largest relative difference when a model is made again from its record. None: not compared."""
    varies: bool = False
    """Whether two runs of one model may measure different values: times, speeds, memory."""

    def __post_init__(self) -> None:
        refuse(
            choice_faults(f"scale of {self.field}", [self.scale], SCALES)
            + choice_faults(f"group of {self.field}", [self.group], GROUPS)
            + self._format_faults()
        )

    def _format_faults(self) -> list[str]:
        try:
            self.text(1.0)  # a mean over seeds is a float, whatever the values are
        except ValueError:
            return [
                f"format of {self.field}={self.format!r}: give one that Python has for floats, such as .3f, or short"
            ]
        return []

    def named(self, name: str) -> "Quantity":
        """The quantity of one corpus or task: `*` replaced by its name."""
        return dataclasses.replace(self, **{text: value.replace("*", name) for text, value in self._texts().items()})

    def labelled(self, label: str) -> "Quantity":
        """The same quantity under the names it has beside another measurement of its field: `gmacs[tokens=8]`."""
        names = {text: getattr(self, text) for text in ("field", "heading", "name", "error", "seconds")}
        return dataclasses.replace(self, **{text: f"{name}[{label}]" for text, name in names.items() if name})

    def before(self, ending: str) -> "Quantity":
        """The same quantity of the model before a stage, for the record of the model after it: shown, not compared."""
        given = {text: getattr(self, text) for text in ("field", "name", "error", "seconds")}
        names = {text: name + ending for text, name in given.items() if name}
        heading = f"{self.title} before"
        return dataclasses.replace(self, **names, heading=heading, label=f"{self.label} before", group="cost", place=0)

    def _texts(self) -> dict[str, str]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, str)}

    def plain(self) -> dict[str, Any]:
        """Values that differ from their default, for a file."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Quantity":
        """A quantity from plain values; names and words that this version does not know are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        kept = {name: value for name, value in plain.items() if name in known}
        for name, allowed in (("scale", SCALES), ("group", GROUPS)):
            if kept.get(name) not in allowed:
                kept.pop(name, None)
        return cls(**kept)

    @property
    def title(self) -> str:
        """Heading of its column, curve or comparison."""
        return self.heading or self.field.replace("_", " ")

    @property
    def stem(self) -> str:
        """End of the name of a figure's file."""
        return self.name or self.field

    def axis(self, *notes: str) -> str:
        """Label of an axis with unit, notes and scale: `accuracy (fraction, ±1 s.e.)`."""
        words = [word for word in (self.unit, *notes, "log scale" if self.scale == "log" else "") if word]
        return self.label + (f" ({', '.join(words)})" if words else "")

    def text(self, value: int | float) -> str:
        """A value in the unit and format of a table."""
        value = value if self.divisor == 1 else value / self.divisor
        if self.format != SHORT:
            return format(value, self.format)
        for limit, form in ((100, ".2f"), (1000, ".1f"), (1e6, ".0f")):
            if abs(value) < limit:
                return format(value, form)
        return format(value, ".3g")

    def deviation_text(self, deviation: int | float) -> str:
        """A deviation or standard error: two digits where the value itself has about four."""
        if self.format == SHORT:
            return format(deviation / self.divisor, ".2g")
        return self.text(deviation)

    def change_text(self, before: int | float, after: int | float) -> str:
        """A change: percent on a log scale, else a difference with its sign."""
        change = after - before
        if self.scale == "log":
            return f"{100 * change / before:+.1f} %" if before else "-"
        return format(change / self.divisor, "+.3g" if self.format == SHORT else f"+{self.format}")


def as_plain(quantities: Iterable[Quantity]) -> dict[str, dict[str, Any]]:
    """Quantities as plain values by field, as a record keeps them."""
    return {one.field: one.plain() for one in quantities}
