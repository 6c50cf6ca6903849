import math

import numpy as np
import pytest

from slimsweep.numerics.selection import around

SPECIAL = [0.0, -0.0, -1.0, math.inf, -math.inf, math.nan, -math.nan, 1e-40, -1e-40, 3e38, 1.0, 1.0]


def scores(kind: str, count: int) -> np.ndarray:
    chance = np.random.default_rng(count)
    drawn = {
        "normal": chance.standard_normal(count),
        "magnitudes": np.abs(chance.standard_normal(count)),
        "tied": chance.integers(3, size=count),
        "equal": np.ones(count),
        "special": chance.choice(SPECIAL, size=count),
        "bits": chance.integers(-(2**31), 2**31, size=count).astype(np.int32).view(np.float32),
    }
    return drawn[kind].astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 7, 4099])
@pytest.mark.parametrize("kind", ["normal", "magnitudes", "tied", "equal", "special", "bits"])
def test_agrees_with_sorting(kind, count):
    values = scores(kind, count)
    ordered = np.append(np.sort(values), np.float32(np.inf))  # NaN last
    for rank in {1, 2, count // 3, count // 2, count - 1, count} & set(range(1, count + 1)):
        found = np.array(around(values, rank), np.float32)
        assert np.array_equal(found, ordered[rank - 1 : rank + 1], equal_nan=True)


def test_what_is_given_stays_as_it_is():
    values = scores("normal", 1000)
    before = values.copy()
    around(values, 500)
    assert np.array_equal(values, before)
