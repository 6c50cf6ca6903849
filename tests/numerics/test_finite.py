import math

import pytest
import torch

from slimsweep.numerics.finite import all_finite


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
