"""The column solve inside a block as one Triton kernel, for GPUs. Its import needs triton, which torch for CUDA has."""

from typing import no_type_check

import torch
import triton
import triton.language as tl

from slimsweep.numerics.column_solver.block import ColumnBlock

WIDTH = 128
"""Columns of one launch: their errors lie in registers, where no thread waits for another's."""
ROWS = 16
"""Rows of one program."""


def solve(block: ColumnBlock) -> None:
    """Solve as column_solver.solve_columns does, WIDTH columns a launch or as many as a group has.

    Raises:
        ValueError: `weight_t`, `keep` or `errors` is not contiguous.
    """
    if not all(tensor.is_contiguous() for tensor in (block.weight_t, block.keep, block.errors)):
        raise ValueError("weight_t, keep and errors must be contiguous")
    kept, group = block.pattern or (0, 0)
    columns, rows = block.weight_t.shape
    width = max(WIDTH, triton.next_power_of_2(group))
    step = width // group * group if group else width
    # Without a grid the kernel reads neither of the two.
    levels, groups = (block.weight_t, block.weight_t) if block.grid is None else (block.grid.planes, block.groups)
    ends = (0, 0) if block.grid is None else (block.grid.lowest, block.grid.highest)
    for start in range(0, columns, step):
        stop = min(start + step, columns)
        these = slice(start, stop)
        _solve[(triton.cdiv(rows, ROWS),)](
            block.weight_t[these],
            block.keep[these].view(torch.uint8),
            block.errors[these],
            block.upper[these, these].T.contiguous(),  # what one column needs lies side by side
            block.scale[these].contiguous(),
            levels,
            groups[these].contiguous(),
            stop - start,
            rows,
            levels.shape[1],
            *map(float, ends),
            group - kept,
            GROUP=group,
            GROUP_WIDTH=triton.next_power_of_2(max(group, 1)),
            ROUNDS=block.grid is not None,
            WIDTH=width,
            ROWS=ROWS,
        )
        if stop < columns:
            block.weight_t[stop:].addmm_(block.upper[these, stop:].T, block.errors[these], alpha=-1)


@triton.jit
@no_type_check
def _corrected(weight_t, upper, lost, place, column, before, columns, rows, row, inside):
    """A column of the weight less what the errors of the columns before `before` take from it."""
    factors = tl.load(upper + column * columns + place, mask=place < before, other=0.0)
    weight = tl.load(weight_t + column * rows + row, mask=inside, other=0.0)
    return weight - tl.sum(lost * factors[:, None], axis=0)


@triton.jit
@no_type_check
def _scores(
    weight_t, keep, upper, scale, lost, place, member, column, columns, rows, row, inside,
    GROUP: tl.constexpr, GROUP_WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Scores of the group that begins with `column`; -1 where a weight is gone, infinite past the last column."""
    scores = tl.full((GROUP_WIDTH, ROWS), float("inf"), tl.float32)
    for index in range(GROUP):
        if column + index < columns:
            other = column + index
            weight = _corrected(weight_t, upper, lost, place, other, column, columns, rows, row, inside)
            score = tl.abs(weight) * tl.load(scale + other)
            score = tl.where(score == score, score, float("inf"))  # NaN stays
            eligible = tl.load(keep + other * rows + row, mask=inside, other=1) != 0
            score = tl.where(eligible, score, -1.0)
            scores = tl.where(member[:, None] == index, score[None, :], scores)
    return scores


@triton.jit
@no_type_check
def _nearest(weight, levels, groups, column, group_count, lowest, highest, rows, row, inside):
    """The level of a column's grid that is nearest to each weight."""
    level = levels + tl.load(groups + column) * rows + row
    step = tl.load(level, mask=inside, other=1.0)
    offset = tl.load(level + group_count * rows, mask=inside, other=0.0)
    minimum = tl.load(level + 2 * group_count * rows, mask=inside, other=0.0)
    ratio = tl.div_rn(weight - minimum, step)  # `/` is not rounded as on a CPU
    # To the nearest, of two the even one: what fp32 does to numbers that have no room for a fraction.
    whole = tl.where(tl.abs(ratio) < 4194304.0, (ratio + 12582912.0) - 12582912.0, ratio)
    code = tl.minimum(tl.maximum(whole + offset, lowest), highest)
    return (code - offset) * step + minimum


@triton.jit
@no_type_check
def _solve(
    weight_t, keep, errors, upper, scale, levels, groups, columns, rows, group_count, lowest, highest, dropped,
    GROUP: tl.constexpr, GROUP_WIDTH: tl.constexpr, ROUNDS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    place, member = tl.arange(0, WIDTH), tl.arange(0, GROUP_WIDTH)
    lost = tl.zeros((WIDTH, ROWS), tl.float32)
    scores = tl.zeros((GROUP_WIDTH, ROWS), tl.float32)
    for column in range(columns):
        stays = tl.load(keep + column * rows + row, mask=inside, other=1) != 0
        if GROUP > 0:
            if column % GROUP == 0:
                scores = _scores(
                    weight_t, keep, upper, scale, lost, place, member, column, columns, rows, row, inside,
                    GROUP, GROUP_WIDTH, ROWS,
                )  # fmt: skip
            position = column % GROUP
            score = tl.sum(tl.where(member[:, None] == position, scores, 0.0), axis=0)
            is_lower = (scores < score[None, :]) | ((scores == score[None, :]) & (member[:, None] < position))
            stays = stays & (tl.sum(is_lower.to(tl.int32), axis=0) >= dropped)
            tl.store(keep + column * rows + row, stays.to(tl.uint8), mask=inside)
        weight = _corrected(weight_t, upper, lost, place, column, column, columns, rows, row, inside)
        diagonal = tl.load(upper + column * columns + column)
        if ROUNDS:
            level = _nearest(weight, levels, groups, column, group_count, lowest, highest, rows, row, inside)
            goal = tl.where(stays, level, 0.0)
            error = tl.div_rn(weight - goal, diagonal)
        else:
            goal = tl.where(stays, weight, 0.0)
            error = tl.where(stays, 0.0, tl.div_rn(weight, diagonal))
        tl.store(weight_t + column * rows + row, goal, mask=inside)
        tl.store(errors + column * rows + row, error, mask=inside)
        lost = tl.where(place[:, None] == column, error[None, :], lost)
