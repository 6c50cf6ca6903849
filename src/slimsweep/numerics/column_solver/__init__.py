"""Column solver: the inner loop of SparseGPT and GPTQ, over one block of columns. block.py explains the algorithm.

cpu.py is a compiled kernel for CPUs, gpu_kernel.py a Triton kernel. gpu.py uses the latter if it agrees with a loop
in torch on a small layer, else the loop.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from slimsweep.checks import number_faults, whole_number_faults
from slimsweep.numerics.column_solver.block import LANES, ColumnBlock

WORK_PER_THREAD = 2**23
"""Least work of a thread, as rows x columns^2. Smaller parts take less time than waking a thread."""


def solve_columns(block: ColumnBlock) -> None:
    """Solve a block in place: remove or round each column, and correct the columns after it within the block.

    Without a grid, the weights that stay are not rounded and leave no error.

    Source: arXiv:2301.00774, alg. 1, inner loop, and sec. 3.5; arXiv:2210.17323, alg. 1, is the same without removal.
        Rows of a layer are independent: threads do not change the result.
    """
    if not block.weight_t.is_cpu:
        from slimsweep.numerics.column_solver.gpu import gpu_solve

        gpu_solve(block.weight_t.device)(block)
        return
    from slimsweep.numerics.column_solver.cpu import solve_rows  # importing numba takes a fifth of a second

    columns, rows = block.weight_t.shape
    tensors = (block.weight_t, block.keep, block.upper.contiguous(), block.scale, block.errors)
    levels = torch.empty(3, 0, rows) if block.grid is None else block.grid.planes
    groups = torch.empty(0, dtype=torch.int64) if block.groups is None else block.groups.contiguous()
    ends = (0, 0) if block.grid is None else (block.grid.lowest, block.grid.highest)
    rounding = (levels.numpy(), groups.numpy(), *map(np.float32, ends))
    given = (*(tensor.numpy() for tensor in tensors), *(block.pattern or (0, 0)), *rounding)
    threads = min(torch.get_num_threads(), rows * columns**2 // WORK_PER_THREAD)
    if threads <= 1:
        solve_rows(0, rows, *given)
    else:
        tiles = -(-rows // LANES)
        bounds = [min(tiles * part // threads * LANES, rows) for part in range(threads + 1)]
        # Numba's own threads spin between calls, and fight those of torch for the same cores.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda first, last: solve_rows(first, last, *given), bounds, bounds[1:]))


def knob_faults(block_columns: Any, damping_fraction: Any) -> list[str]:
    """Faults of the knobs of a solve by columns."""
    faults = whole_number_faults("block_columns", block_columns)
    return faults + number_faults("damping_fraction", damping_fraction, "(0, 1]", "a fraction and not percent")
