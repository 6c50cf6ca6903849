"""Products of two thin matrices."""

from jaxtyping import Float
from torch import Tensor


def projection_factors(
    matrix: Float[Tensor, "out in"], vectors: Float[Tensor, "out rank"]
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
    """A and B in fp32, computed in fp64, with B A = U U^T M for orthonormal columns U.

    Each row of A has the norm of its column of B. So neither leaves the range of fp16 where the scale of M does not.
    For the left singular vectors of M this is the usual root of Sigma in each factor.
    """
    down = vectors.T @ matrix.double()
    roots = down.norm(dim=1).sqrt()
    roots = roots.masked_fill(roots == 0, 1)
    return (down / roots[:, None]).float(), (vectors * roots).float()
