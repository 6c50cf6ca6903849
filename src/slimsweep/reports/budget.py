"""Budgets of a recommendation: limits as they are typed, presets of devices, and what records have of each limit."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slimsweep.errors import StoreError
from slimsweep.evaluation.quantity import Quantity
from slimsweep.hints import allowed_names
from slimsweep.paths import config_root
from slimsweep.records.points import Record
from slimsweep.records.quantities import of_kind

BYTES = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z%]*)\s*")


@dataclass(frozen=True)
class Limit:
    """One limit of a budget. The bound of a record is `amount` plus `share` of the value of its dense model."""

    option: str
    """The option and its value as typed, for messages."""
    kinds: tuple[str, ...]
    """Kinds of quantities that it bounds: the first one that a record measured."""
    is_least: bool = False
    """Whether it is a lower bound."""
    amount: float = 0.0
    share: float = 0.0

    def bound(self, base: int | float | None) -> float:
        """The bound, given the value of the dense model. It is needed where `share` is not 0."""
        return self.amount + (self.share * base if self.share and base is not None else 0.0)

    def excess(self, value: int | float, bound: int | float) -> float:
        """Relative distance by which a value misses the bound; at most 0 where it meets it."""
        distance = bound - value if self.is_least else value - bound
        return distance / abs(bound) if bound else math.copysign(math.inf, distance) if distance else 0.0

    def quantities(self, records: Sequence[Record]) -> list[Quantity]:
        """Quantities that it bounds: of the first kind that some record measured.

        Of sizes and times only the first column counts. Of qualities every corpus and task does.

        Raises:
            StoreError: no record measured any.
        """
        for kind in self.kinds:
            every = [
                one for one in of_kind(records, kind) if any(record.get(one.field) is not None for record in records)
            ]
            if every:
                return every if every[0].group == "quality" else every[:1]
        raise StoreError(
            f"{self.option}: no record measured {' or '.join(self.kinds)}. Measure it: slim amend SWEEP +metric=NAME "
            "(the names are the files of conf/metric)"
        )


def _number(option: str, given: str, units: Mapping[str, int | float], example: str) -> tuple[float, str]:
    """A number and its unit.

    Raises:
        StoreError: it is no number, or the unit is not among `units`.
    """
    match = NUMBER.fullmatch(given)
    if not match or match[2] not in units:
        raise StoreError(f"{option} {given}: give a number of at least 0, such as {example}")
    return float(match[1]), match[2]


def _at_most(kind: str, units: Mapping[str, int | float], example: str) -> Callable[[str, str], Limit]:
    def read(option: str, given: str) -> Limit:
        number, unit = _number(option, given, units, example)
        return Limit(f"{option} {given}", (kind,), amount=number * units[unit])

    return read


def _increase(option: str, given: str) -> Limit:
    number, unit = _number(option, given, {"": 1, "%": 0.01}, "10% (of the dense model's) or 0.5")
    if unit:
        return Limit(f"{option} {given}", ("perplexity",), share=1 + number / 100)
    return Limit(f"{option} {given}", ("perplexity",), amount=number, share=1.0)


def _accuracy(option: str, given: str) -> Limit:
    number, unit = _number(option, given, {"": 1, "%": 0.01}, "0.6, or 95% of the dense model's")
    if not unit and number > 1:
        raise StoreError(f"{option} {given}: give a fraction such as 0.6, or a share of the dense model's such as 95%")
    kept = {"share": number / 100} if unit else {"amount": number}
    return Limit(f"{option} {given}", ("accuracy",), is_least=True, **kept)


OPTIONS: dict[str, Callable[[str, str], Limit]] = {
    "--max-bytes": _at_most("size", BYTES, "80MB or 76MiB"),
    "--max-gmacs": _at_most("work", {"": 1}, "4.5"),
    "--max-latency": _at_most("latency", SECONDS, "0.05 or 50ms"),
    "--max-perplexity-increase": _increase,
    "--min-accuracy": _accuracy,
}
"""Options of the command, and the readers of their values."""


def limits(given: Mapping[str, str | None], device: str | None = None, file: Path | None = None) -> list[Limit]:
    """Limits as they are typed, and those of a device.

    Raises:
        StoreError: a value cannot be read, there is no such device, or no limit is given.
    """
    found = [OPTIONS[option](option, value) for option, value in given.items() if value is not None]
    found += _of_device(device, devices(file)) if device is not None else []
    if not found:
        raise StoreError(f"give a budget: {', '.join(OPTIONS)} or --device NAME")
    return found


def devices(file: Path | None = None) -> dict[str, dict[str, Any]]:
    """Presets of devices by name: label, memory, system and disk as texts with units."""
    file = file or config_root() / "records" / "devices.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _of_device(name: str, known: Mapping[str, Mapping[str, Any]]) -> list[Limit]:
    if name not in known:
        raise StoreError(f"there is no device {name!r}. {allowed_names(name, known, 'Devices')}")
    sizes = {}
    for field in ("memory", "system", "disk"):
        number, unit = _number(f"{field} of {name}", str(known[name][field]), BYTES, "512MiB")
        sizes[field] = number * BYTES[unit]
    return [
        Limit(f"--device {name} (free memory)", ("memory", "size"), amount=sizes["memory"] - sizes["system"]),
        Limit(f"--device {name} (disk)", ("file", "size"), amount=sizes["disk"]),
    ]
