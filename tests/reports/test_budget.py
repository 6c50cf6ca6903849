import math

import pytest
from made_up import record

from slimsweep.errors import StoreError
from slimsweep.reports.budget import OPTIONS, Limit, devices, limits


@pytest.mark.parametrize(
    ("option", "given", "amount", "share"),
    [
        ("--max-bytes", "80MB", 80e6, 0),
        ("--max-bytes", "1.5 GiB", 1.5 * 2**30, 0),
        ("--max-bytes", "1000", 1000, 0),
        ("--max-gmacs", "4.5", 4.5, 0),
        ("--max-latency", "50ms", 0.05, 0),
        ("--max-latency", "2", 2, 0),
        ("--max-perplexity-increase", "10%", 0, 1.1),
        ("--max-perplexity-increase", "0.5", 0.5, 1),
        ("--min-accuracy", "0.6", 0.6, 0),
        ("--min-accuracy", "95%", 0, 0.95),
    ],
)
def test_limits_are_read_with_their_units(option, given, amount, share):
    (limit,) = limits({option: given})
    assert limit.amount == pytest.approx(amount) and limit.share == pytest.approx(share)
    assert limit.option == f"{option} {given}"
    assert limit.is_least == (option == "--min-accuracy")


@pytest.mark.parametrize(
    ("option", "given"),
    [
        *((option, "much") for option in OPTIONS),
        ("--max-bytes", "80 apples"),
        ("--max-bytes", "-1"),
        ("--min-accuracy", "95"),
        ("--max-latency", "5MB"),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(option, given):
    with pytest.raises(StoreError, match=f"{option} {given}: give a") as caught:
        limits({option: given})
    assert "such as" in str(caught.value)


def test_no_limit_is_refused_with_the_options():
    with pytest.raises(StoreError, match="give a budget: --max-bytes"):
        limits(dict.fromkeys(OPTIONS))


def test_a_bound_may_depend_on_the_dense_model():
    (limit,) = limits({"--max-perplexity-increase": "10%"})
    assert limit.bound(20.0) == pytest.approx(22.0)
    assert limit.excess(33.0, 22.0) == pytest.approx(0.5) and limit.excess(22.0, 22.0) <= 0
    (least,) = limits({"--min-accuracy": "0.8"})
    assert least.excess(0.6, 0.8) == pytest.approx(0.25) and least.excess(0.9, 0.8) < 0


def test_a_bound_of_nothing_is_missed_without_measure():
    assert Limit("x", ("size",)).excess(5.0, 0.0) == math.inf and Limit("x", ("size",)).excess(0.0, 0.0) == 0


def test_every_device_has_more_memory_than_its_system_takes():
    for name, one in devices().items():
        memory, disk = limits({}, name)
        assert memory.amount > 0 and disk.amount > 0 and one["label"], name
    memory, disk = limits({}, "raspberry_pi_zero_2_w")
    assert memory.amount == 312 * 2**20 and disk.amount == 16e9


def test_an_unknown_device_is_answered_with_the_near_ones():
    with pytest.raises(StoreError, match="Did you mean: jetson_nano_4gb"):
        limits({}, "jetson_nano")


def test_a_limit_bounds_the_first_kind_that_was_measured():
    memory, _ = limits({}, "phone_4gb")
    assert [one.field for one in memory.quantities([record()])] == ["weight_bytes"]
    assert [one.field for one in memory.quantities([record(peak_memory_bytes=5)])] == ["peak_memory_bytes"]
    (accuracy,) = limits({"--min-accuracy": "0.6"})
    both = [record(accuracy_boolq=0.5)]
    assert [one.field for one in accuracy.quantities(both)] == ["accuracy_boolq", "accuracy_sentiment"]
    with pytest.raises(StoreError, match="no record measured latency"):
        limits({"--max-latency": "1"})[0].quantities([record()])
