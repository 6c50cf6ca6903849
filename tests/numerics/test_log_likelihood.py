import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from slimsweep.numerics.log_likelihood import LANES, bf16_nll


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
