"""Argument of the column solver: a block of columns and the factor that corrects them.

The solve removes or rounds weights from left to right, correcting the columns still to come.
Let U be the factor of the inverse Hessian. A column j that changes by d loses e = d / U[j, j], and each later column k
is corrected by e U[j, k]. The weight lies transposed, one column of the layer in one row of memory:

    weight_t   row j   w w w w w ...   solved: zeros or levels, and its errors e
               row k   w w w w w ...   less e U[j, k], for every k > j

Techniques call it for one block of columns at a time and correct the columns after the block in one matrix product.
Within the block the CPU kernel takes LANES rows of the layer together, as lanes of vector instructions; rows are
independent, so threads share them without changing the result. Loading and storing a weight takes longer than
multiplying it. Corrections inside a block are therefore carried to the next few columns at once, and to the rest of the
block in groups of errors (see _carry in cpu.py).
"""

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
