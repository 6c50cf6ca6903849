"""Choose units to prune when their costs interact (a quadratic objective), by pairwise exchange."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

PARTITION = 4096
"""Units whose exchanges are weighed at once; more are taken in turns, which bounds what one exchange takes."""
SMALLEST_GAIN = 1e-9
"""Fraction of the objective; an exchange that gains less is not worth its time."""
ROUNDING = 1e-13
"""Fraction of the largest cost of a unit; a gain below is rounding, and chasing it would never end."""


@dataclass(frozen=True)
class Exchanged:
    """A set of units to remove and what it costs."""

    chosen: Int[Tensor, " gone"]
    objective: float
    """Sum of the matrix over gone x gone."""
    exchanges: int


def interaction(
    weight: Float[Tensor, "out in"], second_moment: Float[Tensor, "in in"], index: Int[Tensor, "unit width"]
) -> Float[Tensor, "unit unit"]:
    """The matrix Q whose sum over S x S is the mean squared change of W x when the inputs of the units in S go.

    Q[u, v] = sum over inputs i of u and j of v of (w_i . w_j) E[x_i x_j], with w the columns of W.
    """
    products = (weight.T @ weight).mul_(second_moment)
    units, width = index.shape
    order = index.flatten()
    if len(order) < len(products) or not torch.equal(order, torch.arange(len(order))):
        products = products[order.to(weight.device)][:, order.to(weight.device)]
    if width == 1:
        return products
    return products.view(units, width, units, width).sum(dim=(1, 3))


def objective(matrix: Float[Tensor, "unit unit"], chosen: Int[Tensor, " gone"]) -> float:
    """Sum of the matrix over gone x gone."""
    return float(matrix[chosen][:, chosen].sum())


def greedy(matrix: Float[Tensor, "unit unit"], count: int) -> Int[Tensor, " gone"]:
    """The units that cost least alone."""
    return matrix.diagonal().argsort(stable=True)[:count]


def best_exchanges(
    matrix: Float[Tensor, "unit unit"], chosen: Int[Tensor, " gone"], partition: int = PARTITION
) -> Exchanged:
    """Swap one unit that goes for one that stays, the best such pair each time, until no swap gains.

    With r = matrix @ 1_S, swapping i in S for j outside changes the objective by
    Q_ii - 2 r_i + Q_jj + 2 r_j - 2 Q_ij: all pairs at once, and r follows by two columns of Q.
    More than `partition` units are dealt out into parts in order of their own cost; only pairs within a part are
    weighed, part after part, until a whole round gains nothing. The objective is the whole one throughout.

    Source: pairwise exchange for the quadratic assignment problem, Koopmans & Beckmann 1957; Burkard et al. 2009.
    """
    removed = torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device)
    removed[chosen] = True
    reach = matrix[:, removed].sum(dim=1)
    least = max(SMALLEST_GAIN * abs(objective(matrix, chosen)), ROUNDING * float(matrix.diagonal().abs().max()))
    parts = -(-len(matrix) // partition)
    dealt = matrix.diagonal().argsort(stable=True)
    exchanges, idle, turn = 0, 0, 0
    while idle < parts:
        swaps = _exchange_within(matrix, removed, reach, dealt[turn % parts :: parts], least)
        exchanges += swaps
        idle = 0 if swaps else idle + 1
        turn += 1
    result = removed.nonzero().flatten()
    return Exchanged(result, objective(matrix, result), exchanges)


def _exchange_within(matrix: Tensor, removed: Tensor, reach: Tensor, part: Int[Tensor, " part"], least: float) -> int:
    """All gainful swaps within one part; updates `removed` and `reach`, returns how many there were."""
    inside, outside = part[removed[part]], part[~removed[part]]
    if not len(inside) or not len(outside):
        return 0
    diagonal = matrix.diagonal()
    between = matrix[inside][:, outside]
    swaps = 0
    while True:
        leaving = diagonal[inside] - 2 * reach[inside]
        coming = diagonal[outside] + 2 * reach[outside]
        change = torch.add(leaving[:, None] + coming, between, alpha=-2)
        best = int(change.argmin())
        row, column = divmod(best, len(outside))
        gain = -float(change[row, column])
        if not gain > least:
            return swaps
        back, away = inside[row].clone(), outside[column].clone()
        removed[back], removed[away] = False, True
        reach += matrix[:, away] - matrix[:, back]
        inside[row], outside[column] = away, back
        between[row] = matrix[away, outside]
        between[:, column] = matrix[inside, back]
        swaps += 1


def assignment(matrix: Float[Tensor, "unit unit"], count: int, seed: int) -> Int[Tensor, " gone"]:
    """A set found by scipy's FAQ, which assigns units to slots of which the first `count` are pruned.

    Source: Vogelstein et al. 2015, arXiv:1112.5507; as a quadratic assignment, A is 1 on count x count, else 0.
    """
    import numpy as np
    from scipy.optimize import quadratic_assignment

    slots = np.zeros((len(matrix), len(matrix)))
    slots[:count, :count] = 1
    result = quadratic_assignment(slots, matrix.double().cpu().numpy(), options={"rng": np.random.default_rng(seed)})
    return torch.from_numpy(result.col_ind[:count].copy()).to(matrix.device)
