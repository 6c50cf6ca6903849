"""Least-squares repair of a weight whose inputs are partly removed."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slimsweep.numerics.damping import first_that_factors

DAMPING_FRACTION = 0.01
"""Fraction of the mean diagonal of the kept inputs' Gram matrix that is added to it."""


CG_STEPS = 500
"""Largest number of steps of conjugate gradients. Rows above the tolerance by then are counted."""
CG_TOLERANCE = 1e-8
"""Relative tolerance: conjugate gradients end where no row's residual exceeds this part of its right-hand side."""


def least_squares(
    weight: Float[Tensor, "out in"],
    second_moment: Float[Tensor, "in in"],
    lost: Int[Tensor, " lost"],
    removed: Bool[Tensor, "out in"] | None = None,
) -> tuple[Float[Tensor, "out in"], float, float, int]:
    """Fit the kept columns of a weight so that they reproduce the layer's output without the lost columns.

    Minimises E|W x - W' x_kept|^2 + damping |W'_kept - W_kept|^2. The second term holds weights in place where the text
    says nothing of them. Weights in `removed` are zero and stay zero. Returns four values: W' with zeros in the lost
    columns; the mean squared output error before and after, each as a fraction of E|W x|^2; and the number of rows
    in which conjugate gradients did not converge. The last is 0 without `removed` weights.

    Raises:
        HessianError: the inputs' second moment cannot be factored.
    Source: the normal equations; arXiv:2305.11627 leaves this step to fine-tuning.
    """
    keep = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    keep[lost] = False
    inner = second_moment[keep][:, keep]
    repaired = torch.zeros_like(weight)
    repaired[:, keep] = weight[:, keep]
    mean = float(inner.diagonal().mean())
    unconverged = 0
    if mean != 0:  # else the kept inputs are always 0, and can replace nothing
        right = weight[:, lost] @ second_moment[lost][:, keep]
        (factor, damped), _ = first_that_factors(
            lambda fraction: _try_factor(inner, fraction * mean), DAMPING_FRACTION, "the kept inputs"
        )
        change = torch.cholesky_solve(right.T, factor).T
        if removed is not None:
            change, unconverged = _without(change, right, damped, removed[:, keep])
        repaired[:, keep] += change
    masked = weight.clone()
    masked[:, lost] = 0
    total = _energy(weight, second_moment)
    errors = [_energy(weight - other, second_moment) / total if total else 0.0 for other in (masked, repaired)]
    return repaired, *errors, unconverged


def _without(
    change: Float[Tensor, "out kept"],
    right: Float[Tensor, "out kept"],
    damped: Float[Tensor, "kept kept"],
    removed: Bool[Tensor, "out kept"],
) -> tuple[Float[Tensor, "out kept"], int]:
    """The best change of each row that leaves its removed weights zero, by conjugate gradients from `change`.

    Each row has removed weights of its own, so that a factor for each would cost its width cubed. Returns the number of
    rows that have not reached the tolerance too.
    """
    change = change.masked_fill(removed, 0)
    residual = (right - change @ damped).masked_fill_(removed, 0)
    direction, energy = residual.clone(), residual.square().sum(dim=1, keepdim=True)
    goal = CG_TOLERANCE**2 * right.square().sum(dim=1, keepdim=True)
    for _ in range(CG_STEPS):
        if bool((energy <= goal).all()):
            break
        image = (direction @ damped).masked_fill_(removed, 0)
        curvature = (direction * image).sum(dim=1, keepdim=True)
        step = torch.where(curvature > 0, energy / curvature, 0)
        change += step * direction
        residual -= step * image
        before, energy = energy, residual.square().sum(dim=1, keepdim=True)
        direction = residual + torch.where(before > 0, energy / before, 0) * direction
    return change, int((energy > goal).count_nonzero())


def _try_factor(
    inner: Float[Tensor, "kept kept"], added: float
) -> tuple[Float[Tensor, "kept kept"], Float[Tensor, "kept kept"]] | None:
    """Cholesky factor of the matrix with `added` on its diagonal, and that matrix; None where there is no factor."""
    damped = inner.clone()
    damped.diagonal().add_(added)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return None if int(failed) else (factor, damped)


def _energy(weight: Float[Tensor, "out in"], second_moment: Float[Tensor, "in in"]) -> float:
    """E|W x|^2."""
    return float(((weight @ second_moment) * weight).sum())
