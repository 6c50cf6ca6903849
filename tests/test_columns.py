import pytest
import torch

from slimsweep.columns import _solve_by_column, solve_columns


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


@pytest.mark.parametrize("pattern", [None, (2, 4), (5, 8), (1, 16)])
@pytest.mark.parametrize("width", [16, 80])
def test_fused_kernel_equals_the_loop_over_columns(pattern, width):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, width, generator=generator)
    keep = torch.rand(50, width, generator=generator) < 0.6
    weight[~keep] *= pattern is None  # with a pattern, what may not be chosen is zero
    fused, looped = (weight.clone(), keep.clone()), (weight.clone(), keep.clone())
    errors = solve_columns(*fused, upper(width), scale(upper(width)), pattern)
    expected = _solve_by_column(*looped, upper(width), scale(upper(width)), pattern)
    assert torch.equal(fused[1], looped[1])
    assert torch.allclose(fused[0], looped[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(errors, expected, rtol=1e-4, atol=1e-5)


def test_threads_do_not_change_a_bit():
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    keep = weight > 0
    threads, results = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        solved = weight.clone()
        solve_columns(solved, keep.clone(), upper(32), scale(upper(32)))
        results.append(solved)
    torch.set_num_threads(threads)
    assert torch.equal(*results)
