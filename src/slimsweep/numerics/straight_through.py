"""Rounding that gradients pass through (straight-through estimator)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.numerics.uniform_grid import Grid


def straight_through(smooth: Float[Tensor, "*size"], hard: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
    """The values of `hard`, with the gradient of `smooth`. Source: arXiv:1308.3432, sec. 3."""
    return _StraightThrough.apply(smooth, hard)


def round_to(weight: Float[Tensor, "out in"], grid: Grid) -> Float[Tensor, "out in"]:
    """The nearest levels of a weight, in fp32 and to the bit; gradients are those of the weight itself.

    A weight that the grid clips gets no gradient. The grid counts as constant.
    Source: the straight-through estimator of arXiv:1308.3432, sec. 3, with clipping as torch.fake_quantize has it.
    """
    constant = weight.detach()
    return straight_through(weight.masked_fill(grid.clipped(constant), 0), grid.fake_quantize(constant))


class _StraightThrough(torch.autograd.Function):
    """Not smooth + (hard - smooth).detach(): that sum is rounded, and may miss the hard value by a bit."""

    @staticmethod
    def forward(_context: Any, _smooth: Tensor, hard: Tensor) -> Tensor:
        return hard.view_as(hard)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
