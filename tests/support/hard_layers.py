"""Layers on which a careless solver goes wrong: fast forms must agree with plain ones on them too."""

import torch
from torch import Tensor

HARD = ("dead inputs", "ties", "few tokens", "nearly equal inputs", "huge outliers")


def hard_layer(case: str, rows: int = 40, width: int = 208) -> tuple[Tensor, Tensor]:
    """A weight [out in] and inputs [token in]; more inputs than a strip of a Gram matrix or a block of columns has."""
    chance = torch.Generator().manual_seed(HARD.index(case))
    weight = torch.randn(rows, width, generator=chance)
    inputs = torch.randn(3 * width, width, generator=chance) @ torch.randn(width, width, generator=chance) / width**0.5
    if case == "dead inputs":
        inputs[:, ::5] = 0
    elif case == "ties":
        weight = weight.sign() * (1 + (weight.abs() > 1))  # four values
    elif case == "few tokens":
        inputs = inputs[:20]
    elif case == "nearly equal inputs":
        inputs[:, 1::2] = inputs[:, ::2] * (1 + 1e-4 * torch.randn(len(inputs), width // 2, generator=chance))
    elif case == "huge outliers":
        inputs[:, 3] *= 1e4
        weight[5, 10], weight[6, 3] = 1e3, -1e3
    return weight, inputs
