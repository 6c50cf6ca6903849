"""Checks of a setting's value. Each returns a list: empty, or one sentence on what was given and what to give.

Lists add up, so that an object tells every fault of its fields at once.
"""

import math
from collections.abc import Sequence
from typing import Any


def is_number(value: Any) -> bool:
    """Whether a value is an integer or a float; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole_number(value: Any) -> bool:
    """Whether a value is an integer; 4.0 is none, nor is true."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole_number_faults(name: str, given: Any, least: int = 1, is_optional: bool = False) -> list[str]:
    """Check for an integer of at least `least`; `is_optional` allows None too."""
    if (is_optional and given is None) or (is_whole_number(given) and given >= least):
        return []
    return [f"{name}={given!r}: give a whole number of at least {least}"]


def number_faults(name: str, given: Any, interval: str, meaning: str = "") -> list[str]:
    """Check for a number in an interval such as `[0, 1)`; a square bracket includes its end."""
    low, high = map(float, interval[1:-1].split(","))
    is_open_end = {low: interval[0] == "(", high: interval[-1] == ")"}
    if is_number(given) and low <= given <= high and not is_open_end.get(given):
        return []
    allowed = f"in {interval}"
    if high == math.inf:
        allowed = f"above {low:g}" if interval[0] == "(" else f"of at least {low:g}"
    return [f"{name}={given!r}: give a number {allowed}" + (f", {meaning}" if meaning else "")]


def flag_faults(name: str, given: Any) -> list[str]:
    """Check for true or false."""
    return [] if isinstance(given, bool) else [f"{name}={given!r}: give true or false"]


def choice_faults(name: str, given: Sequence[Any], allowed: Sequence[Any]) -> list[str]:
    """Check that a setting holds at least one choice, and no other than the allowed ones."""
    kinds = [(type(choice), choice) for choice in allowed]  # 4.0 and true are no choices where 4 and 1 are
    if given and all((type(choice), choice) in kinds for choice in given):
        return []
    shown = list(given) if len(given) != 1 else given[0]
    *others, last = map(str, allowed)
    return [f"{name}={shown!r}: give {', '.join(others)}{' or ' if others else ''}{last}"]


def refuse(faults: Sequence[str]) -> None:
    """Raise ValueError with all faults, if there are any."""
    if faults:
        raise ValueError("; ".join(faults))
