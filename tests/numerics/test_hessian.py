import pytest
import torch
from hard_layers import HARD, hard_layer
from restatements import inverse_factor

from slimsweep.errors import HessianError
from slimsweep.numerics.hessian import factor_inverse, gram, squared_norm
from slimsweep.pipeline.keys import SUMS_VERSION


def inputs(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    mixed = torch.randn(width, width, generator=torch.Generator().manual_seed(seed + 1))
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) @ mixed


def test_gram_by_hand():
    assert gram(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[10.0, 14.0], [14.0, 20.0]]


@pytest.mark.parametrize("width", [40, 192, 500])  # one strip, a whole one, the last of three narrower
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gram_sums_half_precision_inputs_in_fp32(dtype, width):
    given = inputs(300, width).to(dtype)
    exact = given.double().T @ given.double()
    assert gram(given).dtype == torch.float32
    assert torch.equal(gram(given), gram(given).T)
    assert torch.allclose(gram(given).double(), exact, rtol=0, atol=1e-6 * float(exact.diagonal().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", HARD)
def test_gram_of_hard_inputs_is_exact_beside_any_outlier(case, dtype):
    given = hard_layer(case)[1].to(dtype)
    exact = given.double().T @ given.double()
    lengths = exact.diagonal().sqrt()
    assert bool(((gram(given).double() - exact).abs() <= 2e-6 * lengths[:, None] * lengths).all())


def test_gram_leaves_the_precision_of_products_as_it_was():
    before = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    gram(torch.ones(2, 2, dtype=torch.bfloat16))
    assert (torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == before


@pytest.mark.parametrize("width", [1, 7, 300])  # 300: halves and leaves
def test_factor_is_the_papers(width):
    hessian = gram(inputs(4 * width, width))
    factor = factor_inverse(hessian, 0.01)
    expected = inverse_factor(hessian, 0.01, torch.float64).float()
    assert torch.allclose(factor.upper, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    assert torch.equal(factor.upper, factor.upper.triu())
    assert factor.damping_fraction == 0.01


@pytest.mark.parametrize("damping", [0.01, 1e-6])  # conditions from 500 to 2e8
@pytest.mark.parametrize("case", HARD)
def test_factor_of_hard_inputs_is_the_papers(case, damping):
    hessian = gram(hard_layer(case)[1])
    factor = factor_inverse(hessian, damping)
    expected = inverse_factor(hessian, damping, torch.float64)
    assert factor.damping_fraction == damping
    assert bool(((factor.upper - expected).norm(dim=1) <= 3e-5 * expected.norm(dim=1)).all())


def test_few_tokens_still_factor_because_of_the_damping():
    hessian = gram(inputs(3, 50))  # rank 3
    assert factor_inverse(hessian, 0.01).damping_fraction == 0.01


def test_a_dead_input_touches_no_other():
    given = inputs(60, 8)
    given[:, 5] = 0
    upper = factor_inverse(gram(given), 0.01).upper
    live = [0, 1, 2, 3, 4, 6, 7]
    assert torch.count_nonzero(upper[5]) == 1 and torch.count_nonzero(upper[:, 5]) == 1
    assert torch.equal(factor_inverse(gram(given), 0.01).scale == 0, torch.arange(8) == 5)
    assert torch.allclose(upper[live][:, live], factor_inverse(gram(given[:, live]), 0.01).upper, rtol=1e-4)


def test_nothing_but_dead_inputs_is_the_identity_but_for_scale():
    upper = factor_inverse(torch.zeros(4, 4), 0.01).upper
    assert torch.allclose(upper, torch.eye(4) / 1.01**0.5)


def test_scale_of_the_hessian_does_not_matter():
    hessian = gram(inputs(60, 8))
    small, large = (factor_inverse(scale * hessian, 0.01).upper for scale in (2.0**-20, 2.0**20))
    assert torch.allclose(small, large * 2.0**20, rtol=1e-5)


def test_damping_rises_tenfold_until_it_helps():
    hessian = torch.tensor([[1.0, 1.05], [1.05, 1.0]])  # lowest eigenvalue -0.05
    assert factor_inverse(hessian, 0.001).damping_fraction == pytest.approx(0.1)
    assert factor_inverse(hessian, 0.03).damping_fraction == pytest.approx(0.3)


def test_damping_of_one_is_the_last():
    hessian = torch.tensor([[1.0, 1.9], [1.9, 1.0]])
    assert factor_inverse(hessian, 0.2).damping_fraction == 1.0


def test_what_no_damping_helps_is_an_error():
    with pytest.raises(HessianError, match=r"no damping from 0.01 to 1 .* factorable"):
        factor_inverse(torch.tensor([[1.0, 3.0], [3.0, 1.0]]), 0.01)


def test_inputs_that_are_not_finite_are_an_error():
    with pytest.raises(HessianError, match="not finite"):
        factor_inverse(torch.tensor([[float("nan")]]), 0.01)


def test_golden_output_of_sums_version_3():
    """Raise SUMS_VERSION where these change, and where only rounding does, which this cannot see on every machine."""
    assert SUMS_VERSION == 3
    given = torch.tensor([[(3 * row + 5 * column) % 7 - 2.0 for column in range(4)] for row in range(6)])
    summed = gram(given)
    assert summed.tolist() == [[31, 0, -3, 8], [0, 35, 0, -7], [-3, 0, 31, 6], [8, -7, 6, 26]]
    assert squared_norm(given).tolist() == [31, 35, 31, 26]
    factor = factor_inverse(summed, 0.01)
    upper = [
        [0.1892, -0.0135, 0.0312, -0.0683],
        [0, 0.1731, -0.0092, 0.0482],
        [0, 0, 0.1828, -0.0417],
        [0, 0, 0, 0.195],
    ]
    assert torch.allclose(factor.upper, torch.tensor(upper), rtol=0, atol=6e-5)
    assert torch.allclose(factor.scale, torch.tensor([5.2846, 5.7758, 5.4717, 5.1291]), rtol=0, atol=6e-5)
