"""Means of groups of different sizes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def pooled_mean(means: Float[Tensor, " group"], counts: Sequence[int]) -> Float[Tensor, ""]:
    """Mean of all members of some groups, from the mean of each group and its number of members.

    Groups of equal size give the plain mean of the means, to the last bit.
    """
    shares = torch.tensor([count / max(counts) for count in counts], dtype=means.dtype, device=means.device)
    return (means * shares).sum() / shares.sum()
