import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from slimsweep.numerics.log_likelihood import LANES, bf16_nll, mean_nll


def made(rows: int, columns: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(columns)
    logits = (scale * torch.randn(rows, columns, generator=generator)).bfloat16()
    return logits, torch.randint(0, columns, (rows,), generator=generator)


@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
@pytest.mark.parametrize("columns", [1, 7, LANES, 5 * LANES + 3])
def test_equals_a_log_softmax_in_fp64_within_ulps(columns, scale):
    logits, targets = made(5, columns, scale)
    expected = cross_entropy(logits.double(), targets, reduction="none")
    highest = logits.double().max(dim=1).values
    # fp32 of a difference of numbers as large as the highest logit
    allowed = 2**-22 * (1 + highest.abs() + expected)
    assert bool(((bf16_nll(logits, targets).double() - expected).abs() <= allowed).all())


def test_a_case_that_is_counted_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -math.inf, -math.inf]]).bfloat16()
    assert bf16_nll(logits, torch.tensor([2, 0])).tolist() == pytest.approx([math.log(4), math.log(2)])
    assert bf16_nll(logits, torch.tensor([0, 2]))[1] == math.inf  # a word that the model rules out


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf])
def test_a_row_with_no_likelihoods_is_nan_and_its_neighbours_are_not(value, place):
    logits, targets = made(3, 40)
    logits[1, place] = value
    if value is not math.inf and math.copysign(1, value) < 0:
        logits.view(torch.int16)[1, place] = -1  # nan with its sign set
    assert bf16_nll(logits, targets).isnan().tolist() == [False, True, False]


def test_rows_that_are_strided_or_none_are_read_as_they_are():
    logits, targets = made(6, 64)
    assert torch.equal(bf16_nll(logits[::2], targets[::2]), bf16_nll(logits, targets)[::2])
    assert bf16_nll(logits[:0], targets[:0]).shape == (0,)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4), (4, 1)])
def test_the_mean_and_its_gradient_equal_fp64_within_a_rounding_of_bf16(shape, threads):
    columns = LANES + 7
    logits, _ = made(math.prod(shape), columns)
    logits = logits.view(*shape, columns)
    targets = torch.randint(0, columns, shape, generator=torch.Generator().manual_seed(1))
    targets.view(-1)[1] = -100
    ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        loss = mean_nll(ours, targets, -100)
        (loss * 3).backward()
    finally:
        torch.set_num_threads(before)
    expected = cross_entropy(exact.flatten(0, -2), targets.flatten(), ignore_index=-100)
    (expected * 3).backward()
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert bool(((ours.grad.double() - exact.grad).abs() <= 2**-8 * exact.grad.abs() + 1e-30).all())
    assert bool((ours.grad.flatten(0, -2)[1] == 0).all())


@pytest.mark.parametrize(("top", "others"), [(30.0, 14.0), (40.0, 26.0), (2.0, -math.inf)])
def test_the_gradient_of_a_sure_target_keeps_its_digits(top, others):
    logits = torch.full((1, 64), others).bfloat16()
    logits[0, 3] = top
    ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    mean_nll(ours, torch.tensor([3]), -100).backward()
    cross_entropy(exact, torch.tensor([3])).backward()
    # Of 1 + 7e-6, fp32 keeps the second part within a hundredth; torch's fp32 loss has the same error.
    assert torch.allclose(ours.grad.double(), exact.grad, rtol=2**-6, atol=1e-37)


@pytest.mark.parametrize("wrong", [-1, 30, 10_000])
def test_a_target_that_is_no_word_is_refused(wrong):
    logits, targets = made(4, 30)
    targets[2] = wrong
    with pytest.raises(IndexError, match=str(wrong)):
        bf16_nll(logits, targets)
    with pytest.raises(IndexError, match=str(wrong)):
        mean_nll(logits, targets, -100)


def test_a_row_of_nothing_but_minus_infinity_has_no_likelihood_and_no_gradient():
    logits = torch.full((2, 8), -math.inf).bfloat16()
    logits[0] = 1
    logits.requires_grad_()
    loss = mean_nll(logits, torch.tensor([1, 1]), -100)
    loss.backward()
    assert loss.isnan() and logits.grad.isnan().all(dim=1).tolist() == [False, True]


def test_the_gradient_of_a_slice_reaches_the_whole_as_torch_has_it():
    logits, _ = made(12, 50)
    targets = torch.randint(0, 50, (3, 3), generator=torch.Generator().manual_seed(2))
    ours, torchs = (logits.clone().view(3, 4, 50).requires_grad_() for _ in range(2))
    mean_nll(ours[:, :-1], targets, -100).backward()
    cross_entropy(torchs[:, :-1].float().flatten(0, -2), targets.flatten()).backward()
    # Both round once to bf16, from fp32 numbers that differ in their last bits.
    assert torch.allclose(ours.grad.float(), torchs.grad.float(), rtol=2**-7, atol=0)
    assert bool((ours.grad[:, -1] == 0).all())


def test_a_mean_of_nothing_is_nan_and_asks_for_no_change():
    logits = torch.zeros(1, 2, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = mean_nll(logits, torch.full((1, 2), -100), -100)
    loss.backward()
    assert loss.isnan() and bool((logits.grad == 0).all())


def test_a_row_that_is_not_finite_makes_the_mean_and_its_own_gradient_nan():
    logits, targets = made(3, 40)
    logits[1, 5] = math.nan
    logits.requires_grad_()
    loss = mean_nll(logits, targets, -100)
    loss.backward()
    assert loss.isnan() and logits.grad.isnan().any(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_take_torchs_way(dtype):
    logits, targets = made(4, 30)
    wide = logits.to(dtype)
    assert torch.equal(mean_nll(wide, targets, -100), cross_entropy(wide.float(), targets))
