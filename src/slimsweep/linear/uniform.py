"""Integers of 2 to 8 bits with a scale, and a zero-point or minimum, for each group of inputs."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimsweep.linear.base import Layout, PackedLinear
from slimsweep.linear.bit_packing import pack, unpack
from slimsweep.numerics.uniform_grid import SCALE_DTYPES, Grid


class IntegerLinear(PackedLinear):
    """Weights as codes of a uniform grid, packed without gaps into 32-bit words.

    Tensors have the names and forms of compressed-tensors' `pack-quantized`, which has no `minimum`: `weight_packed`
    (codes along the inputs), `weight_scale` [out group], `weight_zero_point` (codes along the outputs),
    `weight_shape`. Settings: `bits`, `group_size` (null: one scale a row) and `grid`, one of grid.GRIDS.
    """

    kind = "integer"

    @classmethod
    def from_codes(cls, grid: Grid, codes: Int[Tensor, "out in"]) -> "IntegerLinear":
        """Pack codes of a grid."""
        rows, columns = codes.shape
        groups, bits = grid.scale.shape[1], grid.bits
        settings = {"bits": bits, "group_size": columns // groups if groups > 1 else None, "grid": grid.kind}
        tensors = {
            "weight_packed": pack(codes, bits),
            "weight_scale": grid.scale.to(SCALE_DTYPES[grid.kind]),
            "weight_shape": torch.tensor([rows, columns], device=codes.device),
        }
        if grid.kind == "asymmetric":
            tensors["weight_zero_point"] = pack(grid.zero.to(torch.int8), bits, along=0)
        if grid.minimum is not None:
            tensors["weight_minimum"] = grid.minimum
        return cls((rows, columns), settings, tensors)

    @classmethod
    def layout(cls, shape: tuple[int, int], settings: dict[str, Any]) -> Layout:
        (rows, columns), bits = shape, settings["bits"]
        groups = columns // (settings["group_size"] or columns)
        layout: Layout = {
            "weight_packed": ((rows, math.ceil(columns * bits / 32)), torch.int32),
            "weight_scale": ((rows, groups), SCALE_DTYPES[settings["grid"]]),
            "weight_shape": ((2,), torch.int64),
        }
        if settings["grid"] == "asymmetric":
            layout["weight_zero_point"] = ((math.ceil(rows * bits / 32), groups), torch.int32)
        if settings["grid"] == "minimum":
            layout["weight_minimum"] = ((rows, groups), torch.float32)
        return layout

    def compressed_tensors_scheme(self) -> dict[str, Any] | None:
        if self.settings["grid"] == "minimum":
            return None
        group_size = self.settings["group_size"]
        weights = {
            "num_bits": self.settings["bits"],
            "type": "int",
            "symmetric": self.settings["grid"] == "symmetric",
            "strategy": "channel" if group_size is None else "group",
            "group_size": group_size,
        }
        return {"format": "pack-quantized", "weights": weights}

    @property
    def code_bits(self) -> int | float:
        return self.settings["bits"]

    @property
    def grid(self) -> Grid:
        """The levels, a scale for each group."""
        scale, bits = self.weight_scale.float(), self.settings["bits"]
        zero, minimum = torch.zeros_like(scale), None
        if self.settings["grid"] == "asymmetric":
            zero = unpack(self.weight_zero_point.data, bits, scale.shape, along=0).float()
        if self.settings["grid"] == "minimum":
            minimum = self.weight_minimum.data
        return Grid(self.settings["grid"], bits, scale, zero, minimum)

    def codes(self) -> Int[Tensor, "out in"]:
        """The packed integers, each in a byte of its own."""
        bits, shape = self.settings["bits"], (self.out_features, self.in_features)
        if bits == 3:  # 3 bits cross the borders of bytes
            return unpack(self.weight_packed.data, bits, shape)
        # Bytes in order hold the codes in order, lowest bits first, each moved up by half the range.
        packed = self.weight_packed.data.view(torch.uint8)
        parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
        codes = torch.stack(parts, dim=-1).flatten(1)[:, : self.in_features]
        return (codes ^ 2 ** (bits - 1)).view(torch.int8) if bits == 8 else (codes.view(torch.int8) - 2 ** (bits - 1))

    def dequantized(self) -> Float[Tensor, "out in"]:
        grid, groups = self.grid, self.weight_scale.shape[1]
        values = self.codes().unflatten(1, (groups, -1))
        if grid.minimum is None:
            # bf16 holds whole numbers to 256 and the scale exactly: as fp32, rounded once. fp16 lacks the range.
            dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
            values = values.to(dtype).sub_(grid.zero.to(dtype)[:, :, None]).mul_(grid.scale.to(dtype)[:, :, None])
            return values.flatten(1).to(self.dtype)
        values = (values.float() - grid.lowest).mul_(grid.scale[:, :, None]).add_(grid.minimum[:, :, None])
        return values.to(self.dtype).flatten(1)

    def requantize(self, weight: Float[Tensor, "out in"]) -> "IntegerLinear":
        grid = self.grid.with_zero(weight == 0)
        codes = grid.quantize(weight.float())
        if grid.minimum is None:  # a level that the dtype has rounded may lie nearer to another: what is there stays
            codes = torch.where(weight == self.dequantized(), self.codes(), codes)
        return IntegerLinear.from_codes(grid, codes)
