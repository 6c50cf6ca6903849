"""A form of another package, and the technique that makes it: linear layers as products of two small factors."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from slimsweep.linear.base import LinearForm, PackedLinear, install
from slimsweep.linear.uniform import IntegerLinear
from slimsweep.techniques.base import Technique
from slimsweep.techniques.layerwise import LayerWalk
from slimsweep.techniques.quantization.rtn import RTN


class LowRankLinear(LinearForm):
    """W = B A with B [out rank] and A [rank in]."""

    kind = "toy_low_rank"

    @classmethod
    def layout(cls, shape, settings):
        (rows, columns), rank = shape, settings["rank"]
        return {"a": ((rank, columns), torch.float32), "b": ((rows, rank), torch.float32)}

    @classmethod
    def from_weight(cls, weight, rank: int):
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        tensors = {"a": right[:rank], "b": left[:, :rank] * values[:rank]}
        return cls(tuple(weight.shape), {"rank": rank}, tensors)

    @property
    def weight(self):
        return self.b.data @ self.a.data

    def forward(self, inputs):
        return functional.linear(functional.linear(inputs, self.a), self.b, self.bias)


class AdaptedLinear(LinearForm):
    """A packed layer beside a low-rank one, as an adapter on quantized weights has it: both are parts of the form."""

    kind = "toy_adapter"

    def __init__(self, shape, settings, packed: PackedLinear, update: LowRankLinear):
        super().__init__(shape, settings, {})
        self.packed, self.update = packed, update

    @classmethod
    def empty(cls, shape, settings, device="meta"):
        packed = IntegerLinear.empty(shape, settings["packed"], device)
        return cls(shape, settings, packed, LowRankLinear.empty(shape, settings["update"], device))

    @property
    def weight(self):
        return self.packed.weight + self.update.weight

    def forward(self, inputs):
        outputs = self.packed(inputs) + self.update(inputs)
        return outputs if self.bias is None else outputs + self.bias


@dataclass(frozen=True, kw_only=True)
class LowRank(LayerWalk, Technique):
    """The nearest product of two factors, by singular values."""

    rank: int

    def form(self, shape):
        return LowRankLinear, {"rank": self.rank}

    def compress_layer(self, weight, prepared=None, generator=None, removed=None):
        return LowRankLinear.from_weight(weight, self.rank)


def adapt(model, name: str, rank: int) -> AdaptedLinear:
    """Put an adapter on a rounded weight in the place of a layer."""
    weight = model.targets()[name].weight.detach().float()
    packed = RTN(bits=8, group_size=None).compress_layer(weight)
    update = LowRankLinear.from_weight(0.1 * weight, rank)
    settings = {"packed": packed.settings, "update": update.settings}
    form = AdaptedLinear(tuple(weight.shape), settings, packed, update)
    install(model.module, name, form)
    return form
