"""Ladder of dampings for matrices that may not be positive definite: tenfold steps up to 1."""

from collections.abc import Callable
from typing import TypeVar

from slimsweep.errors import HessianError

Factor = TypeVar("Factor")

MOST = 1.0
"""Largest damping tried, as a fraction of the mean diagonal."""


def first_that_factors(
    factor: Callable[[float], Factor | None], damping_fraction: float, subject: str
) -> tuple[Factor, float]:
    """Factor at the requested damping, or at ten times as much while that fails; returns the damping too.

    Args:
        factor: makes the factor at a fraction of the mean diagonal; None where the matrix is not positive definite.
        subject: the matrix in the message.

    Raises:
        HessianError: no damping from the requested one to 1 works.
    """
    fraction = damping_fraction
    while (result := factor(fraction)) is None:
        if not fraction < MOST:
            raise HessianError(
                f"no damping from {damping_fraction:g} to {fraction:g} of its mean diagonal makes {subject} factorable"
            )
        fraction = min(10 * fraction, MOST)
    return result, fraction
