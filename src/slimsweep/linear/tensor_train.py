"""An embedding whose table is a tensor train, and the tied head that reads the same cores."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from slimsweep.linear.base import Layout, LinearForm
from slimsweep.numerics import tensor_train

LOOK_UP_TOKENS = 1024
"""Tokens looked up together; each holds about width * last rank numbers meanwhile."""


class TensorTrain(nn.Module):
    """Cores of a table [vocabulary width], as numerics/tensor_train.py describes them. Embedding and head share one."""

    def __init__(self, cores: list[Tensor]):
        super().__init__()
        for place, core in enumerate(cores):
            self.register_parameter(f"core_{place}", nn.Parameter(core.contiguous(), requires_grad=False))

    @property
    def cores(self) -> list[Tensor]:
        """Cores in order, each [rank before, row base, column base, rank after]."""
        return list(self.parameters())


class TensorTrainForm(LinearForm):
    """A table [vocabulary width] held as a tensor train. As a linear layer's weight, it is [out in].

    Settings: `rows` and `columns`, the bases of row and column indices, and `ranks` between the cores.
    """

    def __init__(self, shape: tuple[int, int], settings: dict[str, Any], table: TensorTrain):
        super().__init__(shape, settings, {})
        self.table = table

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        shapes = tensor_train.core_shapes(settings["rows"], settings["columns"], settings["ranks"])
        return {f"table.core_{place}": (core, torch.float32) for place, core in enumerate(shapes)}

    @classmethod
    def empty(cls, shape: tuple[int, int], settings: dict[str, Any], device: torch.device | str = "meta") -> Any:
        layout = cls.layout(shape, settings).values()
        cores = [torch.empty(size, dtype=dtype, device=device) for size, dtype in layout]
        return cls(shape, settings, TensorTrain(cores))

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The whole table, rebuilt at each access; no forward needs it."""
        blocks = [block.data for block in tensor_train.row_blocks(self.table.cores)]
        return torch.cat(blocks)[: self.out_features, : self.in_features]

    @property
    def _sizes(self) -> tuple[list[int], list[int], list[int]]:
        return self.settings["rows"], self.settings["columns"], self.settings["ranks"]


class TensorTrainEmbedding(TensorTrainForm):
    """An embedding that contracts, for each token, the slices of its digits; it never rebuilds the table.

    It scales its rows where the embedding it replaces did (Gemma).
    Source: arXiv:1901.10787 (embeddings as tensor trains of matrices). TensorGPT (arXiv:2307.00526) gives each row a
        train of its own; here all rows share the cores.
    """

    kind = "tensor_train"

    def __init__(self, shape: tuple[int, int], settings: dict[str, Any], table: TensorTrain):
        super().__init__(shape, settings, table)
        self.register_buffer("embed_scale", None, persistent=False)

    def take_over(self, layer: nn.Module, module: nn.Module) -> None:
        scale = getattr(layer, "embed_scale", None)
        self.embed_scale = None if scale is None else torch.as_tensor(scale)

    def forward(self, inputs: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        """Rows of the given tokens.

        Raises:
            IndexError: an index outside the vocabulary. The padded table may have a row there, or the digits may name
                that of another token.
        """
        if not inputs.is_meta and inputs.numel():
            least, most = (int(value) for value in inputs.aminmax())
            if least < 0 or most >= self.out_features:
                raise IndexError(
                    f"token indices lie from {least} to {most}, and the embedding has rows 0 to {self.out_features - 1}"
                )
        parts = [tensor_train.look_up(self.table.cores, part) for part in inputs.flatten().split(LOOK_UP_TOKENS)]
        rows = torch.cat(parts)[:, : self.in_features].view(*inputs.shape, self.in_features)
        return rows if self.embed_scale is None else rows * self.embed_scale.to(rows.dtype)

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of looking up so many tokens; a dense table has none."""
        return tokens * tensor_train.look_up_macs(*self._sizes)


class TensorTrainHead(TensorTrainForm):
    """A head that reads the cores of the embedding it is tied with.

    It rebuilds one block of rows after another and multiplies by it, so that the whole table is never in memory.
    A block serves all tokens of a forward. Contracting each token with the cores would take more operations, about 190
    times those of a dense head for SmolLM2 at half its parameters. Settings: also `embedding`, its full name.
    """

    kind = "tensor_train_head"

    def take_over(self, layer: nn.Module, module: nn.Module) -> None:
        self.table = module.get_submodule(self.settings["embedding"]).table

    def forward(self, inputs: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocabulary"]:
        logits = inputs.new_empty(*inputs.shape[:-1], self.out_features)
        start = 0
        for block in tensor_train.row_blocks(self.table.cores):
            rows = block[: self.out_features - start, : self.in_features]
            logits[..., start : start + len(rows)] = functional.linear(inputs, rows)
            start += len(rows)
        return logits if self.bias is None else logits + self.bias

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of rebuilding the table once, and of a dense head for each token."""
        return tensor_train.rebuild_macs(*self._sizes) + tokens * math.prod((self.out_features, self.in_features))
