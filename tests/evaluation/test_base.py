import math

from slimsweep.evaluation.base import Measurement


def test_numbers_that_are_not_finite_become_null_with_a_reason():
    measurement = Measurement({"a": math.inf, "b": math.nan, "c": 1.0, "d": 3}, {"a": "overflowed"})
    assert measurement.values == {"a": None, "b": None, "c": 1.0, "d": 3}
    assert measurement.reasons == {"a": "overflowed", "b": "not finite: nan"}


def test_a_null_always_has_a_reason():
    assert Measurement({"a": None}).reasons == {"a": "not measured"}
