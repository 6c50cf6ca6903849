"""Checks that numbers are finite, and the refusal of those that are not."""

from torch import Tensor

from slimsweep.errors import ModelError


def all_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite, in a fraction of the time of isfinite().all(): a NaN is both extremes."""
    if values.numel() == 0 or not values.is_floating_point():
        return True
    lowest, highest = values.detach().aminmax()
    return bool(lowest.isfinite() & highest.isfinite())


def refuse_non_finite(values: Tensor, subject: str, or_else: str = "") -> None:
    """Raise `non_finite_error` where a number is NaN or infinite."""
    if not all_finite(values):
        raise non_finite_error(subject, or_else)


def non_finite_error(subject: str, or_else: str = "") -> ModelError:
    """Error that says what overflowed and what to change.

    Args:
        subject: a clause, such as "The gradients of q_proj are not finite".
        or_else: advice beside a wider dtype, such as "compress less".
    """
    advice = f", or {or_else}" if or_else else ""
    return ModelError(f"{subject}. Choose a dtype with more range (dtype=bfloat16 or dtype=float32){advice}.")
