"""Hessian of a layer's squared output error, and the triangular factor of its inverse.

H = X^T X for the inputs X [token in]. A column solve needs the upper triangular U with H^-1 = U^T U. The textbook
inverts H and factors the inverse. Here H is read backwards (rows and columns reversed), factored once and inverted
as a triangle; the full inverse is never formed:

    flip(H) = L L^T   =>   H = R R^T with R = flip(L), upper   =>   U = R^-1 = flip(L^-1)

The factor is computed in fp64, the inverse of the triangle in fp32 and by halves:

    [A 0; B C]^-1 = [A^-1 0; -C^-1 B A^-1  C^-1]        products of halves run faster than LAPACK's solve
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.errors import HessianError
from slimsweep.numerics.damping import first_that_factors
from slimsweep.numerics.finite import all_finite

GRAM_STRIP = 192
"""Rows of the strips that the upper half of a Gram matrix is computed by; narrower ones are no faster on a CPU."""
WHOLE_ON_GPU = 1024
"""Width up to which a GPU computes the Gram matrix as one product. Launching strips would cost more."""
INVERSE_LEAF = 256
"""Width up to which a triangular inverse is left to LAPACK; wider ones are faster by halves."""

FACTOR_BYTES = 12
"""Working bytes per number of a Hessian while it is factored: an fp64 and an fp32 copy, or three fp32 copies."""


@dataclass(frozen=True)
class InverseFactor:
    """Factor of an inverse Hessian for a column solve: `upper` triangular, with H^-1 = upper^T upper."""

    upper: Float[Tensor, "in in"]
    scale: Float[Tensor, " in"]
    """Factor from a weight's magnitude to its score: 1 / the diagonal of `upper`, and 0 for a dead input."""
    damping_fraction: float
    """Fraction of the mean diagonal that was added; above the requested one where that failed."""

    def to_tensors(self) -> dict[str, Tensor]:
        """For a file."""
        damping = torch.tensor(self.damping_fraction, dtype=torch.float64)
        return {"upper": self.upper.contiguous(), "scale": self.scale, "damping_fraction": damping}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "InverseFactor":
        """Read what `to_tensors` wrote."""
        return cls(tensors["upper"], tensors["scale"], float(tensors["damping_fraction"]))


def gram(inputs: Float[Tensor, "token in"]) -> Float[Tensor, "in in"]:
    """inputs^T inputs, summed in fp32; bf16 inputs are multiplied as bf16, which loses nothing.

    Source: arXiv:2301.00774, sec. 3.1, without the factor 2 / tokens: every use is free of scale.
    """
    width = inputs.shape[1]
    step = width if width <= WHOLE_ON_GPU and not inputs.is_cpu else GRAM_STRIP
    result = inputs.new_empty(width, width, dtype=torch.float32)
    with _exact_half_products(inputs.dtype):
        values = inputs.float()
        for start in range(0, width, step):
            stop = min(start + step, width)
            torch.mm(values[:, start:stop].T, values[:, start:], out=result[start:stop, start:])
            result[stop:, start:stop] = result[start:stop, stop:].T
    return result


def squared_norm(inputs: Float[Tensor, "token in"]) -> Float[Tensor, " in"]:
    """Squared norm of each input over all tokens, in fp32: the diagonal of its Gram matrix, but for rounding."""
    return inputs.float().square().sum(dim=0)


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
    """The triangular factor of the inverse of a damped Hessian, in fp32.

    A dead input (zero diagonal) gets the mean diagonal of the live ones. Its row and column are zero otherwise, so it
    corrects no other input. If the factorization fails, ten times the damping is tried, up to 1.

    Raises:
        HessianError: not finite, or no damping up to 1 makes it positive definite.
    Source: arXiv:2301.00774, sec. 3.3. Departure: H is factored once and its factor inverted, as at the top of this
        file. The factor is computed in fp64, because its error grows with H's condition number; in fp32 the masks of
        real layers changed. The triangle is inverted in fp32: its condition number is only the square root of H's.
    """
    diagonal = hessian.diagonal()
    if not all_finite(diagonal):
        raise HessianError("the inputs are not finite, so there is nothing to solve")
    dead = diagonal == 0
    mean = float(diagonal[~dead].double().mean()) if bool((~dead).any()) else 1.0
    upper, fraction = first_that_factors(
        lambda fraction: _try_factor(hessian, (dead + fraction) * mean), damping_fraction, "it"
    )
    return InverseFactor(upper, (1 / upper.diagonal()).masked_fill(dead, 0), fraction)


def factor_name(damping_fraction: float) -> str:
    """Name in the cache for factors of Gram matrices at this damping."""
    return f"factor of gram at damping {damping_fraction!r}"


def _try_factor(hessian: Float[Tensor, "in in"], added: Float[Tensor, " in"]) -> Float[Tensor, "in in"] | None:
    """The factor with `added` on the diagonal; None where that is not positive definite."""
    # Column-major, as LAPACK expects, so that it is factored in place. This is the peak memory of a wide layer.
    lower = hessian.new_empty(hessian.shape, dtype=torch.float64).mT
    lower.copy_(hessian.flip(0, 1)).diagonal().add_(added.flip(0))
    failed = torch.empty((), dtype=torch.int32, device=hessian.device)
    torch.linalg.cholesky_ex(lower, out=(lower, failed))
    if int(failed):
        return None
    lower = lower.float()
    upper = _invert_lower(lower).flip(0, 1)
    return upper if all_finite(upper) else None


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
