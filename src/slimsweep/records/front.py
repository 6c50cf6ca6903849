"""Pareto front: the points that no other point beats in both coordinates."""

from collections.abc import Sequence


def front(points: Sequence[tuple[int | float, int | float]], higher_is_better: bool = False) -> list[int]:
    """Places of the points that no other point beats, by growing first coordinate; a smaller first one is better.

    Of equal points the first one counts.
    """
    sign = -1 if higher_is_better else 1
    order = sorted(range(len(points)), key=lambda place: (points[place][0], sign * points[place][1], place))
    found: list[int] = []
    for place in order:
        if not found or sign * points[place][1] < sign * points[found[-1]][1]:
            found.append(place)
    return found
