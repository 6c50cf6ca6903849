import torch

from slimsweep.numerics.low_rank import projection_factors


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_two_rows_by_hand():
    # U = (0.6, 0.8), so U^T M = (5, 0) for M = [3 0; 4 0], of norm 5: A = (5, 0) / sqrt(5), B = U sqrt(5).
    down, up = projection_factors(torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.tensor([[0.6], [0.8]]).double())
    assert torch.allclose(down, torch.tensor([[5.0, 0.0]]) / 5**0.5)
    assert torch.allclose(up, torch.tensor([[0.6], [0.8]]) * 5**0.5)
    assert down.dtype == up.dtype == torch.float32


def test_singular_vectors_give_each_factor_the_root_of_the_values():
    matrix = normal(6, 9).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    down, up = projection_factors(matrix, left[:, :3])
    torch.testing.assert_close(down.double(), values[:3, None].sqrt() * right[:3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(up.double(), left[:, :3] * values[:3].sqrt(), rtol=1e-5, atol=1e-6)


def test_vectors_that_the_matrix_has_nothing_of_leave_zeros():
    down, up = projection_factors(torch.zeros(2, 3), torch.eye(2).double())
    assert not down.any() and torch.equal(up, torch.eye(2))
