import math

import pytest
import torch
from hard_layers import HARD, hard_layer

from slimsweep.numerics import column_solver as solver
from slimsweep.numerics.column_solver import gpu as gpu_columns
from slimsweep.numerics.column_solver import knob_faults
from slimsweep.numerics.column_solver.block import ColumnBlock
from slimsweep.numerics.hessian import factor_inverse, gram
from slimsweep.numerics.uniform_grid import GRIDS, Grid, fit


def by_rows(solve, weight: torch.Tensor, keep: torch.Tensor, *more, **named) -> torch.Tensor:
    """Solve a weight [out column], in place, with what takes and returns [column out]."""
    weight_t, kept, errors = weight.T.contiguous(), keep.T.contiguous(), torch.full_like(weight.T.contiguous(), 7)
    solve(ColumnBlock(weight_t, kept, errors, *more, **named))
    weight.copy_(weight_t.T)
    keep.copy_(kept.T)
    return errors.T


def solve_columns(*given, **named) -> torch.Tensor:
    return by_rows(solver.solve_columns, *given, **named)


def solve_by_column(*given, **named) -> torch.Tensor:
    return by_rows(gpu_columns.solve_by_column, *given, **named)


def upper(width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    factor = 0.2 * torch.randn(width, width, generator=generator)
    return factor.triu(1) + torch.diag(0.5 + torch.rand(width, generator=generator))


def scale(factor: torch.Tensor) -> torch.Tensor:
    return 1 / factor.diagonal()


def test_one_row_by_hand():
    weight = torch.tensor([[4.0, 1.0, 3.0]])
    keep = torch.tensor([[False, True, False]])
    factor = torch.tensor([[2.0, 1.0, 0.5], [0.0, 1.0, 9.0], [0.0, 0.0, 4.0]])
    errors = solve_columns(weight, keep, factor, scale(factor))
    # Column 0: error 4 / 2 = 2, so column 1 loses 2 x 1 and column 2 loses 2 x 0.5; column 2: error 2 / 4.
    assert errors.tolist() == [[2.0, 0.0, 0.5]]
    assert weight.tolist() == [[0.0, -1.0, 0.0]]


def test_pattern_chooses_from_corrected_weights():
    weight = torch.tensor([[1.0, 2.0, 5.0, 3.0]])
    keep = torch.ones_like(weight, dtype=torch.bool)
    factor = torch.eye(4)
    factor[0, 2] = 4.0  # removing the 1 turns the 5 into a 1, and so it goes and not the 3
    solve_columns(weight, keep, factor, scale(factor), pattern=(1, 2))
    assert weight.tolist() == [[0.0, 2.0, 0.0, 3.0]]
    assert keep.tolist() == [[False, True, False, True]]


def test_pattern_removes_the_first_of_equals_and_zeros_before_all():
    weight = torch.tensor([[2.0, 2.0, 2.0, 2.0], [9.0, 1.0, 0.0, 8.0], [0.0, 0.0, 0.0, 1.0]])
    keep = weight != 0
    solve_columns(weight, keep, torch.eye(4), torch.ones(4), pattern=(2, 4))
    assert weight.tolist() == [[0.0, 0.0, 2.0, 2.0], [9.0, 0.0, 0.0, 8.0], [0.0, 0.0, 0.0, 1.0]]


def test_a_scale_of_zero_goes_before_any_other_but_a_zero():
    weight = torch.tensor([[1.0, 9.0, 2.0, 0.0]])
    solve_columns(weight, weight != 0, torch.eye(4), torch.tensor([1.0, 0.0, 1.0, 1.0]), pattern=(2, 4))
    assert weight.tolist() == [[1.0, 0.0, 2.0, 0.0]]


@pytest.mark.parametrize("solve", [solve_columns, solve_by_column])
def test_what_stays_may_be_infinite_and_touches_no_other(solve):
    weight = torch.tensor([[1.0, math.inf, 2.0, 3.0]])
    errors = solve(weight, torch.tensor([[False, True, True, True]]), torch.eye(4), torch.ones(4))
    assert weight.tolist() == [[0.0, math.inf, 2.0, 3.0]] and errors.tolist() == [[1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("solve", [solve_columns, solve_by_column])
def test_of_scores_that_are_no_numbers_the_pattern_keeps_the_count(solve):
    keep = torch.ones(1, 4, dtype=torch.bool)
    solve(torch.tensor([[math.inf, 1.0, 2.0, 3.0]]), keep, torch.eye(4), torch.tensor([0.0, 1, 1, 1]), (2, 4))
    assert keep.tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("pattern", [None, (2, 4), (5, 8), (1, 16), (2, 5)])
@pytest.mark.parametrize("width", [16, 80])
def test_fused_kernel_equals_the_loop_over_columns(pattern, width):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(150, width, generator=generator)  # more than two times the kernel's lanes
    keep = torch.rand(150, width, generator=generator) < 0.6
    weight[~keep] *= pattern is None  # with a pattern, what may not be chosen is zero
    fused, looped = (weight.clone(), keep.clone()), (weight.clone(), keep.clone())
    errors = solve_columns(*fused, upper(width), scale(upper(width)), pattern)
    expected = solve_by_column(*looped, upper(width), scale(upper(width)), pattern)
    assert torch.equal(fused[1], looped[1])
    assert torch.allclose(fused[0], looped[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(errors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [None, "asymmetric"])
@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize("case", HARD)
def test_fused_kernel_equals_the_loop_on_hard_layers(case, pattern, kind):
    weight, inputs = hard_layer(case)
    factor = factor_inverse(gram(inputs), 1e-6)
    keep = torch.ones_like(weight, dtype=torch.bool) if pattern else weight.abs() > weight.abs().median()
    grid = None if kind is None else fit(weight, kind, 4, 16)
    groups = None if grid is None else grid.group_of(weight.shape[1])
    fused, looped = (weight.clone(), keep.clone()), (weight.clone(), keep.clone())
    solve_columns(*fused, factor.upper, factor.scale, pattern, grid, groups)
    solve_by_column(*looped, factor.upper, factor.scale, pattern, grid, groups)
    # Weights reach 1e8 where a near copy of an input is corrected, so each row is measured by its own length.
    same = (fused[1] == looped[1]).all(dim=1)
    same &= (fused[0] - looped[0]).norm(dim=1) <= 1e-4 * looped[0].norm(dim=1)
    assert int(same.sum()) >= len(weight) - 1  # a tie that falls otherwise takes its row along


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(solver, "WORK_PER_THREAD", 1)
    weight = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    keep = weight > 0
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        solved = weight.clone()
        solve_columns(solved, keep.clone(), upper(32), scale(upper(32)))
        results.append(solved)
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def whole_numbers(rows: int, columns: int, bits: int = 4) -> Grid:
    """Levels -8 to 7 (4 bits), a step of 1."""
    return Grid("symmetric", bits, torch.ones(rows, columns), torch.zeros(rows, columns))


def test_one_row_rounded_by_hand():
    weight = torch.tensor([[4.4, 1.0, 3.0]])
    factor = torch.tensor([[2.0, 1.0, 0.5], [0.0, 1.0, 2.0], [0.0, 0.0, 4.0]])
    keep = torch.tensor([[True, False, True]])
    errors = solve_columns(weight, keep, factor, scale(factor), grid=whole_numbers(1, 3), groups=torch.arange(3))
    # Column 0: 4.4 to 4, error 0.4 / 2; column 1 is 1 - 0.2 and goes, error 0.8; column 2 is 3 - 0.1 - 1.6 and goes
    # to 1, error 0.3 / 4.
    assert weight.tolist() == [[4.0, 0.0, 1.0]]
    assert errors.tolist() == [[pytest.approx(0.2), pytest.approx(0.8), pytest.approx(0.075)]]


def test_a_grid_of_its_own_for_each_weight():
    weight = torch.tensor([[0.9, 0.9], [0.9, 0.9]])
    grid = Grid("symmetric", 4, torch.tensor([[1.0, 0.5], [0.25, 2.0]]), torch.zeros(2, 2))
    solve_columns(
        weight, torch.ones(2, 2, dtype=torch.bool), torch.eye(2), torch.ones(2), grid=grid, groups=torch.arange(2)
    )
    assert weight.tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_ties_go_to_the_even_level_and_what_is_beyond_to_the_last():
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5, 90.0, -90.0]])
    factor = torch.eye(6)
    solve_columns(weight, weight != 0, factor, torch.ones(6), grid=whole_numbers(1, 6), groups=torch.arange(6))
    assert weight.tolist() == [[0.0, 2.0, 2.0, 0.0, 7.0, -8.0]]


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_without_corrections_it_is_the_grids_own_rounding_bit_for_bit(kind, bits):
    weight = torch.randn(150, 80, generator=torch.Generator().manual_seed(bits))
    grid, groups = fit(weight, kind, bits, 16), torch.arange(80) // 16
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    solved, keep = weight[:, order], torch.ones(150, 80, dtype=torch.bool)
    solve_columns(solved, keep, torch.eye(80), torch.ones(80), grid=grid, groups=groups[order])
    assert torch.equal(solved, grid.fake_quantize(weight)[:, order])


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_fused_kernel_rounds_as_the_loop_over_columns(kind, pattern):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(150, 80, generator=generator)
    keep = (torch.rand(150, 80, generator=generator) < 0.6) | (pattern is not None)
    grid, factor, groups = fit(weight, kind, 3, 16), upper(80), torch.arange(80) // 16
    fused, looped = (weight.clone(), keep.clone()), (weight.clone(), keep.clone())
    solve_columns(*fused, factor, scale(factor), pattern, grid, groups)
    solve_by_column(*looped, factor, scale(factor), pattern, grid, groups)
    # A row in which a tie falls otherwise goes its own way from there; few do.
    same = (fused[1] == looped[1]).all(dim=1) & torch.isclose(fused[0], looped[0], atol=1e-5).all(dim=1)
    assert int(same.sum()) >= 145
    found = fused[0][fused[1]]
    assert torch.equal(grid.fake_quantize(fused[0])[fused[1]], found)
    assert torch.all(fused[0][~fused[1]] == 0)


def test_threads_do_not_change_a_bit_of_what_is_rounded(monkeypatch):
    monkeypatch.setattr(solver, "WORK_PER_THREAD", 1)
    weight = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    threads, results = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        solved = weight.clone()
        grid, groups = fit(weight, "asymmetric", 4, 8), torch.arange(32) // 8
        solve_columns(solved, weight > 0, upper(32), scale(upper(32)), grid=grid, groups=groups)
        results.append(solved)
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_knobs_of_a_solve():
    assert knob_faults(1, 1) == knob_faults(128, 0.01) == []
    for columns, damping in ((0, 0), (True, True), (1.5, 2), ("8", "1")):
        assert [fault.split("=")[0] for fault in knob_faults(columns, damping)] == ["block_columns", "damping_fraction"]
