"""Names of layers as people read them: those that differ in nothing but their block as one."""

import re
from collections.abc import Mapping


def format_layer_names(notes: Mapping[str, object]) -> str:
    """Names, each with its note in brackets: `model.layers.0-29.mlp.up_proj (576)` where all 30 blocks have that.

    Names are taken together where they have the same note and differ in one number at the same place.
    """
    places: dict[tuple[str, str, object], list[int]] = {}
    for name, note in notes.items():
        before, number, after = re.fullmatch(r"(.*?\.)(\d+)(\..*)|(.*)", name).groups()[:3]
        key = (before or name, after or "", note)
        places.setdefault(key, [])
        if number is not None:
            places[key].append(int(number))
    return ", ".join(
        f"{before}{_ranges(sorted(numbers))}{after} ({note})" for (before, after, note), numbers in places.items()
    )


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 as `0-2,5`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ",".join("-".join(map(str, ends)) for ends in ranges)
