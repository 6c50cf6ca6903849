"""Rounding to a grid that gradients pass through."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slimsweep.numerics.uniform_grid import Grid


def round_to(weight: Float[Tensor, "out in"], grid: Grid) -> Float[Tensor, "out in"]:
    """The nearest levels of a weight, in fp32 and to the bit; gradients are those of the weight itself.

    A weight that the grid clips gets no gradient. The grid counts as constant.
    Source: the straight-through estimator of arXiv:1308.3432, sec. 3, with clipping as torch.fake_quantize has it.
    """
    return _StraightThrough.apply(weight, grid)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weight: Tensor, grid: Grid) -> Tensor:
        context.save_for_backward(grid.clipped(weight))
        return grid.fake_quantize(weight)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (clipped,) = context.saved_tensors
        return gradient.masked_fill(clipped, 0), None
