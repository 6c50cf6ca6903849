"""Choose units to prune when their costs interact (a quadratic objective), by pairwise exchange.

Removing a set S of units changes the layer's output by f(S), the sum of Q[i, j] over all i and j in S. Q[i, i] is the
cost of unit i alone. Q[i, j] is how two units interact: their changes of the output add up, or cancel. The best set of
a given size is a quadratic assignment problem, so it is searched for locally. The search starts from a set, such as the
units of lowest Q[i, i]. It swaps the best pair of a unit i in S and a unit j outside, until no swap lowers f:

    r = Q 1_S                                                     row sums of Q over S
    f(swapped) - f(S) = Q_ii - 2 r_i + Q_jj + 2 r_j - 2 Q_ij      for all pairs at once
    r <- r + Q[:, j] - Q[:, i]                                    after the swap
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

PARTITION = 4096
"""Units whose pairs are compared at once. More units are split into parts, which bounds memory and time of a swap."""
SMALLEST_GAIN = 1e-9
"""Fraction of the objective; an exchange that gains less is not worth its time."""
ROUNDING = 1e-13
"""Fraction of the largest cost of a unit. A smaller gain is a rounding error, and the search might never end."""


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
    """Swap the best pair of a removed and a kept unit, again and again, until no swap lowers the objective.

    More than `partition` units are dealt into parts, in order of their own cost. Only pairs within a part are swapped,
    part after part, until a whole round finds no swap. The objective always counts all units.

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
    """Choose a set by FAQ (Fast Approximate QAP, in scipy), which assigns units to slots; the first `count` are pruned.

    Source: Vogelstein et al. 2015, arXiv:1112.5507; as a quadratic assignment, A is 1 on count x count, else 0.
    """
    import numpy as np
    from scipy.optimize import quadratic_assignment

    slots = np.zeros((len(matrix), len(matrix)))
    slots[:count, :count] = 1
    result = quadratic_assignment(slots, matrix.double().cpu().numpy(), options={"rng": np.random.default_rng(seed)})
    return torch.from_numpy(result.col_ind[:count].copy()).to(matrix.device)
