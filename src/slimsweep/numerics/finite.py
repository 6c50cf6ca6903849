"""Whether numbers are finite, cheaply."""

from torch import Tensor


def all_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite, in a fraction of the time of isfinite().all(): a NaN is both extremes."""
    lowest, highest = values.aminmax()
    return bool(lowest.isfinite() & highest.isfinite())
