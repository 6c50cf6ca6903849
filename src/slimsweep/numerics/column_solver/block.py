"""Argument of the column solver: a block of columns and the factor that corrects them."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from slimsweep.numerics.uniform_grid import Grid

LANES = 64
"""Rows that go through the columns together: lanes of vector instructions, few enough for a near cache."""


@dataclass(frozen=True)
class ColumnBlock:
    """The weights of some columns, corrected for all columns before them, and what it takes to solve them.

    A layer's columns are the rows of `weight_t`: all that is done to one of them lies side by side in memory.
    """

    weight_t: Float[Tensor, "column out"]
    """Weights; overwritten with the solution."""
    keep: Bool[Tensor, "column out"]
    """False: to be removed. With a pattern what is eligible (False: zero already), overwritten with the choice."""
    errors: Float[Tensor, "column out"]
    """Overwritten with the error of each removed or rounded weight in units of its column's diagonal, so that
    upper[these, later].T @ errors is what later columns must lose."""
    upper: Float[Tensor, "column column"]
    """The block of the inverse Hessian's factor that belongs to these columns."""
    scale: Float[Tensor, " column"]
    """Factor of scores: |weight| x scale, of weights corrected so far."""
    pattern: tuple[int, int] | None = None
    """(n, m): which n of every m columns stay is chosen when the first of them is reached."""
    grid: Grid | None = None
    """Levels that weights which stay are rounded to when they are reached; None: they are not."""
    groups: Int[Tensor, " column"] | None = None
    """Index of each column's group in the grid."""
