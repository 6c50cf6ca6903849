"""A weight as the product of two thin matrices."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from slimsweep.linear.base import Layout, LinearForm


class LowRankLinear(LinearForm):
    """W = B A: outputs are B (A x) + bias, and no forward forms W.

    Tensors: `a` [rank in] and `b` [out rank]. They are parameters of the model: counted one by one, in its dtype.
    Settings: `rank`.
    """

    kind = "low_rank"

    @classmethod
    def from_factors(cls, a: Float[Tensor, "rank in"], b: Float[Tensor, "out rank"]) -> "LowRankLinear":
        """A layer of two factors."""
        return cls((len(b), a.shape[1]), {"rank": len(a)}, {"a": a, "b": b})

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        (rows, columns), rank = shape, settings["rank"]
        return {"a": ((rank, columns), torch.float32), "b": ((rows, rank), torch.float32)}

    @property
    def rank(self) -> int:
        """Rows of A, and columns of B."""
        return self.settings["rank"]

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        return self.b.data @ self.a.data

    def forward(self, inputs: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return functional.linear(functional.linear(inputs, self.a), self.b, self.bias)
