import pytest
from made_up import record

from slimsweep.figures.calibration import default_of, draw, varied
from slimsweep.figures.style import paper_style

FIELD = "perplexity_wikitext2"


def calibrated(value, seed=0, **calibration):
    config = {"ratio": 0.5, "calibration": {"corpus": "reviews", "sequences": 16, "tokens": 512} | calibration}
    return record("wanda", 0.5, seed, **{FIELD: value, "config": config})


@pytest.fixture
def records():
    more = [calibrated(40.0 - place, sequences=count) for place, count in enumerate((4, 8, 32))]
    seeds = [calibrated(value, seed) for seed, value in enumerate((30.0, 32.0, 34.0))]
    return [record(), *seeds, *more, calibrated(60.0, corpus="code"), calibrated(50.0, sequences=4, tokens=64)]


def test_the_default_is_what_most_records_have(records):
    assert default_of(records[1:]) == {"corpus": "reviews", "sequences": 16, "tokens": 512, "seed": 0}


def test_a_factor_is_varied_alone(records):
    default = default_of(records[1:])
    found = varied(records[1:], "sequences", default)
    assert [(value, one[FIELD]) for value, one in found.items()] == [(4, 40.0), (8, 39.0), (16, 30.0), (32, 38.0)]
    assert list(varied(records[1:], "corpus", default)) == ["reviews", "code"]
    assert list(varied(records[1:], "seed", default)) == [0, 1, 2]


def test_four_panels_show_the_lines_and_the_deviation_over_seeds(records):
    with paper_style():
        figure = draw(records)["calibration_wikitext2"]
    text, sequences, tokens, seed = figure.axes
    assert list(sequences.get_lines()[0].get_xdata()) == [4, 8, 16, 32]
    (bar,) = sequences.containers
    low, high = bar.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((30.0, 34.0))  # mean 32, sample deviation 2
    assert [tick.get_text() for tick in text.get_xticklabels()] == ["reviews", "code"]
    assert not seed.containers and list(seed.get_lines()[0].get_ydata()) == [30.0, 32.0, 34.0]
    assert list(tokens.get_lines()[0].get_xdata()) == [512]


def test_one_calibration_alone_is_no_figure():
    assert draw([record(), calibrated(30.0)]) == {}
