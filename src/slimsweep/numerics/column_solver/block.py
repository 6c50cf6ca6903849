"""Argument of the column solver: a block of columns and the factor that corrects them.

The columns of a layer are removed or rounded one by one, from left to right. Each column leaves an error in the layer's
output, and the columns still to come are corrected to compensate (SparseGPT; GPTQ is the same without removal).
Let U be the upper factor of the inverse Hessian, H^-1 = U^T U. A weight in column j that is lowered by d has the error
e = d / U[j, j]. Each later column k is then lowered by e U[j, k], which keeps the layer's output as close as possible.
The weight is stored transposed, so that a column of the layer is a row of memory:

    weight_t   row j   w w w w w ...   solved: zeros or levels, and its errors e
               row k   w w w w w ...   less e U[j, k], for every k > j

Techniques call it for one block of columns at a time and correct the columns after the block in one matrix product.
Within the block the CPU kernel takes LANES rows of the layer together, as lanes of vector instructions. Rows are
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
    """Weights of a block of columns, already corrected for all columns before the block, with masks, factor and grid.

    A column of the layer is a row of `weight_t`, so that its weights are contiguous in memory.
    """

    weight_t: Float[Tensor, "column out"]
    """Weights; overwritten with the solution."""
    keep: Bool[Tensor, "column out"]
    """False: remove the weight. With a pattern: True where a weight may stay; overwritten with the final mask."""
    errors: Float[Tensor, "column out"]
    """Overwritten with the errors e of all weights, 0 for a weight that stays as it is.

    The caller subtracts upper[these, later].T @ errors from the columns after the block."""
    upper: Float[Tensor, "column column"]
    """The block of the inverse Hessian's factor that belongs to these columns."""
    scale: Float[Tensor, " column"]
    """Factor of scores for a pattern: score = |weight| x scale, with the weight as corrected so far."""
    pattern: tuple[int, int] | None = None
    """(n, m): n of every m columns stay. They are chosen when the solve reaches the first of the m."""
    grid: Grid | None = None
    """Levels that the remaining weights are rounded to; None: no rounding."""
    groups: Int[Tensor, " column"] | None = None
    """Index of each column's group in the grid."""
