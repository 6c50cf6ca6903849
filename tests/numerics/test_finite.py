import math

import pytest
import torch

from slimsweep.errors import ModelError
from slimsweep.numerics.finite import all_finite, non_finite_error, refuse_non_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_bad_number_anywhere_is_found(dtype):
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert (
        all_finite(values) and all_finite(values.T) and all_finite(torch.finfo(dtype).max * torch.ones(9, dtype=dtype))
    )
    for bad in (math.nan, math.inf, -math.inf):
        for place in (0, 17, 34):
            broken = values.clone()
            broken.view(-1)[place] = bad
            assert not all_finite(broken) and not bool(broken.isfinite().all())


def test_nothing_and_whole_numbers_are_finite():
    assert all_finite(torch.empty(0, 3)) and all_finite(torch.tensor([1, 2**62])) and all_finite(torch.tensor([True]))


def test_the_error_says_what_overflowed_and_what_to_change():
    refuse_non_finite(torch.ones(3), "The gradients of q are not finite")
    with pytest.raises(ModelError) as error:
        refuse_non_finite(torch.tensor([1.0, math.nan]), "The gradients of q are not finite", "compress less")
    dtypes = "Choose a dtype with more range (dtype=bfloat16 or dtype=float32)"
    assert str(error.value) == f"The gradients of q are not finite. {dtypes}, or compress less."
    assert str(non_finite_error("The loss is inf")) == f"The loss is inf. {dtypes}."
