import pytest

from slimsweep.evaluation.quantity import Quantity, as_plain

SCORE = Quantity(field="score_*", label="score", heading="score *", name="*", error="score_error_*")


def test_a_corpus_stands_in_every_name():
    one = SCORE.named("wikitext2")
    assert (one.field, one.title, one.stem, one.error) == (
        *("score_wikitext2", "score wikitext2", "wikitext2", "score_error_wikitext2"),
    )
    assert one.label == "score"


def test_a_second_measurement_is_labelled_in_every_name():
    one = SCORE.named("a").labelled("max_windows=8")
    assert (one.field, one.title, one.error) == ("score_a[max_windows=8]", "score a[max_windows=8]", one.error)
    assert one.error == "score_error_a[max_windows=8]" and one.seconds == ""


def test_words_of_a_later_version_leave_the_default():
    plain = {"field": "x", "label": "x", "scale": "symlog", "group": "safety", "colour": "red"}
    assert Quantity.of(plain) == Quantity(field="x", label="x")


def test_plain_values_give_the_same_quantity_again():
    one = Quantity(field="x", label="x", unit="bytes", higher_is_better=False, divisor=2**20, tolerance=0.0)
    assert as_plain([one])["x"] == {
        "field": "x",
        "label": "x",
        "unit": "bytes",
        "higher_is_better": False,
        "divisor": 2**20,
        "tolerance": 0.0,
    }
    assert Quantity.of(one.plain()) == one
    assert Quantity.of(one.plain() | {"of_a_later_version": 1}) == one


@pytest.mark.parametrize(
    ("value", "text"),
    [(10.9612, "10.96"), (410.25, "410.2"), (12345.6, "12346"), (1.2345e9, "1.23e+09"), (-4.0, "-4.00")],
)
def test_a_number_of_any_size_stays_short(value, text):
    assert Quantity(field="x", label="x").text(value) == text


def test_a_value_is_shown_in_the_unit_of_the_table():
    one = Quantity(field="x", label="x", format=".1f", divisor=1024)
    assert (one.text(2048), one.deviation_text(512), one.change_text(2048, 1024)) == ("2.0", "0.5", "-1.0")


def test_a_change_on_a_log_scale_is_a_percentage():
    one = Quantity(field="x", label="x", scale="log")
    assert (one.change_text(20.0, 25.0), one.change_text(0.0, 25.0)) == ("+25.0 %", "-")


def test_an_axis_tells_unit_notes_and_scale():
    assert Quantity(field="x", label="size", unit="bytes", scale="log").axis() == "size (bytes, log scale)"
    assert Quantity(field="x", label="accuracy", unit="fraction").axis("±1 s.e.") == "accuracy (fraction, ±1 s.e.)"
    assert Quantity(field="x", label="count").axis() == "count"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": "logarithmic"}, "scale of x='logarithmic': give linear or log"),
        ({"group": "speed"}, "group of x='speed': give quality, cost or detail"),
        ({"format": ".3q"}, "format of x='.3q': give one that Python has for floats, such as .3f, or short"),
    ],
)
def test_what_no_table_can_show_is_refused_where_it_is_declared(values, message):
    with pytest.raises(ValueError, match=message):
        Quantity(field="x", label="x", **values)
