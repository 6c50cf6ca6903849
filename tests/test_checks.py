import pytest

from slimsweep.checks import choice_faults, flag_faults, number_faults, refuse, whole_number_faults


@pytest.mark.parametrize("given", [2, 7])
def test_a_whole_number_of_at_least_the_least_passes(given):
    assert whole_number_faults("tokens", given, least=2) == []


@pytest.mark.parametrize("given", [1, -3, 2.0, True, "2", None])
def test_no_other_value_is_such_a_whole_number(given):
    assert whole_number_faults("tokens", given, least=2) == [f"tokens={given!r}: give a whole number of at least 2"]


def test_only_an_optional_number_may_be_left_out():
    assert whole_number_faults("limit", None, is_optional=True) == []
    assert whole_number_faults("limit", 0, is_optional=True) == ["limit=0: give a whole number of at least 1"]


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.0, 0.99], [1, 1.0, -0.1]),
        ("(0, 1]", [1, 0.01], [0, 0.0, 1.01]),
        ("[0, 0.5]", [0, 0.5], [0.6]),
    ],
)
def test_a_bracket_says_whether_the_end_belongs_to_an_interval(interval, inside, outside):
    assert [number_faults("ratio", given, interval) for given in inside] == [[]] * len(inside)
    for given in (*outside, True, "0.5", None, float("nan")):
        assert number_faults("ratio", given, interval) == [f"ratio={given!r}: give a number in {interval}"]


@pytest.mark.parametrize(("interval", "allowed"), [("(0, inf)", "above 0"), ("[2.5, inf)", "of at least 2.5")])
def test_a_number_without_a_highest_is_finite_all_the_same(interval, allowed):
    assert number_faults("scale", 1e9, interval) == []
    for given in (-1.0, float("inf"), float("nan"), True):
        assert number_faults("scale", given, interval) == [f"scale={given!r}: give a number {allowed}"]


def test_a_meaning_ends_the_sentence_on_a_number():
    assert number_faults("ratio", 30, "[0, 1)", "a fraction") == ["ratio=30: give a number in [0, 1), a fraction"]


def test_a_flag_is_true_or_false():
    assert flag_faults("act_order", True) == flag_faults("act_order", False) == []
    for value in (1, 0, "yes", None):
        assert flag_faults("act_order", value) == [f"act_order={value!r}: give true or false"]


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        (["a"], []),
        (["b", "a"], []),
        (["c"], ["knob='c': give a, b or 4"]),
        (["a", "c"], ["knob=['a', 'c']: give a, b or 4"]),
        ([], ["knob=[]: give a, b or 4"]),
        ([4.0], ["knob=4.0: give a, b or 4"]),
    ],
)
def test_choices_are_named_with_what_is_allowed(given, faults):
    assert choice_faults("knob", given, ("a", "b", 4)) == faults


def test_two_choices_and_one():
    assert choice_faults("knob", ["c"], ("a", "b")) == ["knob='c': give a or b"]
    assert choice_faults("knob", ["c"], ("a",)) == ["knob='c': give a"]


def test_all_faults_are_refused_together():
    refuse([])
    with pytest.raises(ValueError, match="^one; two$"):
        refuse(["one", "two"])
