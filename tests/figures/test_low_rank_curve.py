import pytest
from made_up import record

from slimsweep.figures.low_rank_curve import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def test_quality_is_drawn_over_parameters_with_the_dense_model_as_a_star():
    points = [record("svd", ratio, parameters=int(1000 * (1 - ratio))) for ratio in (0.2, 0.5)]
    axes = draw([record(), *points])["low_rank_curve_wikitext2"].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["svd"].get_xdata()) == [0.5, 0.8] and list(lines["svd"].get_ydata()) == [35.0, 14.0]
    stars = [line for line in axes.get_lines() if line.get_marker() == "*"]
    assert [list(star.get_xdata()) for star in stars] == [[1.0]]
    assert axes.get_xlabel() == "parameters (thousands)"


def test_the_dense_model_alone_draws_nothing():
    assert draw([record()]) == {}
