"""The Hessian of a layer's squared output error, and the triangular factor of its inverse."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.errors import HessianError

INVERSE_LEAF = 256
"""Width below which a triangular inverse is left to LAPACK; above it, halves joined by products are faster."""


@dataclass(frozen=True)
class InverseFactor:
    """What a column solve needs of a Hessian H: `upper`, with H^-1 = upper^T upper and a positive diagonal."""

    upper: Float[Tensor, "in in"]
    damping_fraction: float
    """Fraction of the mean diagonal that was added to the diagonal; above the requested one where that failed."""


def gram(inputs: Float[Tensor, "token in"]) -> Float[Tensor, "in in"]:
    """inputs^T inputs, summed in fp32. Products of half-precision inputs are exact in fp32, so nothing is lost.

    Source: arXiv:2301.00774, sec. 3.1; the factor 2 / tokens is left out since every use is free of scale.
    """
    with _exact_half_products(inputs.dtype):
        transposed = inputs.T.contiguous().float()
        return transposed @ transposed.T


@contextlib.contextmanager
def _exact_half_products(dtype: torch.dtype) -> Iterator[None]:
    """Let fp32 products run on matrix units where these represent every value of `dtype`."""
    knobs = []
    if dtype == torch.bfloat16:
        knobs = [(torch.backends.mkldnn.matmul, "bf16"), (torch.backends.cuda.matmul, "tf32")]
    elif dtype == torch.float16:
        knobs = [(torch.backends.cuda.matmul, "tf32")]
    before = [(backend, backend.fp32_precision) for backend, _ in knobs]
    for backend, precision in knobs:
        backend.fp32_precision = precision
    try:
        yield
    finally:
        for backend, precision in before:
            backend.fp32_precision = precision


def factor_inverse(hessian: Float[Tensor, "in in"], damping_fraction: float) -> InverseFactor:
    """The triangular factor of the inverse of a damped Hessian.

    A dead input (zero diagonal) gets the mean diagonal of the live ones, and touches no other. Each damping is tried
    in fp32, then in fp64; where both fail, ten times as much, up to 1.

    Raises:
        HessianError: not finite, or no damping up to 1 makes it positive definite.
    Source: arXiv:2301.00774, sec. 3.3. Instead of inverting and factoring again, H = R R^T is factored with R upper
        (a Cholesky factor read backwards) and R inverted: H^-1 = R^-T R^-1.
    """
    diagonal = hessian.diagonal()
    if not bool(diagonal.isfinite().all()):
        raise HessianError("the inputs are not finite, so there is nothing to solve")
    dead = diagonal == 0
    mean = float(diagonal[~dead].mean()) if bool((~dead).any()) else 1.0
    fraction = damping_fraction
    while True:
        added = dead * mean + fraction * mean
        for dtype in (torch.float32, torch.float64):
            upper = _try_factor(hessian.to(dtype), added.to(dtype))
            if upper is not None:
                return InverseFactor(upper, fraction)
        if fraction >= 1:
            raise HessianError(
                f"no damping from {damping_fraction:g} to {fraction:g} of the mean diagonal makes it factorable"
            )
        fraction = min(10 * fraction, 1.0)


def _try_factor(
    hessian: Float[Tensor, "in in"], added: Float[Tensor, " in"]
) -> Float[Tensor, "in in"] | None:
    """fp32 factor of the inverse of `hessian` with `added` on its diagonal, or None where that is not definite."""
    backwards = hessian.flip(0, 1)
    backwards.diagonal().add_(added.flip(0))
    lower, failed = torch.linalg.cholesky_ex(backwards)
    if int(failed):
        return None
    upper = _invert_lower(lower).flip(0, 1).float()
    return upper if bool(upper.isfinite().all()) else None


def _invert_lower(lower: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    """Inverse of a lower triangular matrix, by halves."""
    size = lower.shape[0]
    if size <= INVERSE_LEAF:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, eye, upper=False)
    half = size // 2
    inverse = torch.zeros_like(lower)
    inverse[:half, :half] = _invert_lower(lower[:half, :half])
    inverse[half:, half:] = _invert_lower(lower[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ lower[half:, :half] @ inverse[:half, :half]
    return inverse
