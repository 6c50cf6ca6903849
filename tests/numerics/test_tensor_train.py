import math

import pytest
import torch

from slimsweep.numerics import tensor_train

ROWS, COLUMNS = (2, 3, 3), (2, 2, 3)  # a matrix of up to 18 rows and 12 columns
V, W = 17, 11


def matrix(rows: int = V, columns: int = W) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).double()


def rebuilt(cores) -> torch.Tensor:
    """The padded matrix by the definition: a sum over both ranks."""
    whole = torch.einsum("aijb,bklc,cmnd->ikmjln", *cores)
    return whole.reshape(math.prod(ROWS), math.prod(COLUMNS))


def relative(found, wanted) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    ("size", "count", "bases"),
    [
        (49152, 3, (32, 32, 48)),  # SmolLM2's vocabulary
        (576, 3, (8, 8, 9)),
        (512, 3, (8, 8, 8)),
        (50257, 3, (27, 38, 49)),  # a prime: 17 rows of padding
        (258, 3, (4, 5, 13)),  # nothing up to 260 has more equal ones
        (7, 3, (2, 2, 2)),  # one row of padding
        (12, 1, (12,)),
        (2, 3, (1, 1, 2)),
    ],
)
def test_bases_are_nearly_equal_and_pad_little(size, count, bases):
    assert tensor_train.balanced_factors(size, count) == bases
    assert size <= math.prod(bases) <= max(size + 1, size * 1.01)


def test_the_full_rank_is_exact():
    full = tensor_train.full_ranks(ROWS, COLUMNS)
    assert full == (4, 9)  # 2 * 2 on the left of the first cut, 3 * 3 on the right of the second
    cores = tensor_train.decompose_to_ranks(matrix(), ROWS, COLUMNS, full)
    assert [tuple(core.shape) for core in cores] == [(1, 2, 2, 4), (4, 3, 2, 9), (9, 3, 3, 1)]
    torch.testing.assert_close(rebuilt(cores)[:V, :W], matrix(), rtol=0, atol=1e-12)
    assert rebuilt(cores)[V:].abs().max() < 1e-12 and rebuilt(cores)[:, W:].abs().max() < 1e-12


@pytest.mark.parametrize("ranks", [(1, 1), (3, 5), (4, 9)])
def test_rows_looked_up_are_rows_of_the_rebuilt_matrix(ranks):
    cores = tensor_train.decompose_to_ranks(matrix(), ROWS, COLUMNS, ranks)
    index = torch.tensor([16, 0, 5, 5, 9, 17])
    torch.testing.assert_close(tensor_train.look_up(cores, index), rebuilt(cores)[index])
    torch.testing.assert_close(torch.cat(list(tensor_train.row_blocks(cores))), rebuilt(cores))
    assert [len(block) for block in tensor_train.row_blocks(cores)] == [9, 9]


@pytest.mark.parametrize("error", [0.9, 0.5, 0.2, 0.01])
def test_an_error_bound_is_met(error):
    cores = tensor_train.decompose_to_error(matrix(), ROWS, COLUMNS, error)
    assert relative(rebuilt(cores)[:V, :W], matrix()) <= error


def test_the_ranks_of_an_error_are_those_of_the_matrix():
    left, right = matrix(18, 1), matrix(1, 12)
    noise = 1e-6 * matrix(18, 12)
    cores = tensor_train.decompose_to_ranks(left @ right, ROWS, COLUMNS, (1, 1))  # of rank 1 by construction
    cores = tensor_train.decompose_to_error(rebuilt(cores) + noise, ROWS, COLUMNS, 1e-3)
    assert [core.shape[3] for core in cores] == [1, 1, 1]


def test_a_matrix_of_zeros_has_rank_1():
    cores = tensor_train.decompose_to_error(torch.zeros(V, W), ROWS, COLUMNS, 0.1)
    assert [core.shape[3] for core in cores] == [1, 1, 1] and not rebuilt(cores).any()


def test_two_cores_lose_the_singular_values_that_go():
    whole = matrix(6, 6)
    cores = tensor_train.decompose_to_ranks(whole, (2, 3), (2, 3), (2,))
    cut = whole.view(2, 3, 2, 3).transpose(1, 2).reshape(4, 9)  # Eckart and Young, for the only cut there is
    found = torch.cat(list(tensor_train.row_blocks(cores)))
    values = torch.linalg.svdvals(cut)
    assert relative(found, whole) == pytest.approx(float(values[2:].norm() / values.norm()))


def test_counts_are_those_of_a_count_by_hand():
    assert tensor_train.parameter_count(ROWS, COLUMNS, (3, 5)) == 4 * 3 + 3 * 6 * 5 + 5 * 9
    # [2 3] times [3 (2 5)], then [(2 2) 5] times [5 3]
    assert tensor_train.look_up_macs(ROWS, COLUMNS, (3, 5)) == 2 * 3 * 10 + 4 * 5 * 3
    # [4 3] times [3 (6 5)], then [(4 6) 5] times [5 9]
    assert tensor_train.rebuild_macs(ROWS, COLUMNS, (3, 5)) == 4 * 3 * 30 + 24 * 5 * 9


@pytest.mark.parametrize("budget", [18, 19, 36, 37, 100, 147, 201, 202, 10_000])
def test_ranks_are_the_largest_uniform_bound_within_a_budget(budget):
    def numbers(bound):  # at bound 1: 4 + 6 + 9 = 19
        first, second = min(bound, 4), min(bound, 9)
        return 4 * first + 6 * first * second + 9 * second

    bounds = [bound for bound in range(1, 10) if numbers(bound) <= budget]
    expected = (min(bounds[-1], 4), min(bounds[-1], 9)) if bounds else None
    assert tensor_train.ranks_within(ROWS, COLUMNS, budget) == expected


def test_a_train_is_the_one_that_tensorly_finds():
    tensorly = pytest.importorskip("tensorly", reason="tensorly is the reference of this test")
    whole, ranks = matrix(18, 12), (3, 5)
    cores = tensor_train.decompose_to_ranks(whole, ROWS, COLUMNS, ranks)
    train = tensorly.decomposition.tensor_train_matrix(whole.view(*ROWS, *COLUMNS).numpy(), [1, *ranks, 1])
    peer = torch.from_numpy(tensorly.tt_matrix.tt_matrix_to_tensor(train).reshape(18, 12).copy())
    torch.testing.assert_close(rebuilt(cores), peer)
    assert sum(core.size for core in train.factors) == tensor_train.parameter_count(ROWS, COLUMNS, ranks)
