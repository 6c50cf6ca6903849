import pytest

from slimsweep.errors import HessianError
from slimsweep.numerics.damping import first_that_factors


@pytest.mark.parametrize(
    ("requested", "needed", "tried"),
    [
        (0.01, 0, [0.01]),
        (0.01, 0.05, [0.01, 0.1]),
        (0.01, 0.5, [0.01, 0.1, 1]),
        (0.3, 0.5, [0.3, 1]),
        (1.0, 1, [1]),
    ],
)
def test_ten_times_as_much_is_tried_up_to_1(requested, needed, tried):
    seen = []

    def factor(fraction):
        seen.append(fraction)
        return "factor" if fraction >= needed else None

    assert first_that_factors(factor, requested, "it") == ("factor", pytest.approx(tried[-1]))
    assert seen == pytest.approx(tried)


def test_what_no_damping_helps_is_refused():
    with pytest.raises(HessianError, match=r"^no damping from 0\.05 to 1 .* makes the sum factorable$"):
        first_that_factors(lambda fraction: None, 0.05, "the sum")
