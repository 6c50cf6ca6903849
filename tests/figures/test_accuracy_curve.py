import pytest
from made_up import curve, record

from slimsweep.figures.accuracy_curve import draw
from slimsweep.figures.style import paper_style


@pytest.fixture
def axes():
    with paper_style():
        return draw([record(), *curve("magnitude"), *curve("wanda")])["accuracy_curve_sentiment"].axes[0]


def test_error_bars_are_one_standard_error(axes):
    bars = next(container for container in axes.containers if container.get_label() == "wanda")
    segments = bars.lines[2][0].get_segments()
    assert segments[0][1][1] - segments[0][0][1] == pytest.approx(2 * 0.03)
    assert list(bars.lines[0].get_ydata()) == pytest.approx([0.68, 0.6, 0.52])


def test_the_dense_level_is_drawn_and_no_chance_level_is_invented(axes):
    assert axes.get_legend_handles_labels()[1] == ["dense (0.700)", "magnitude", "wanda"]


def test_standard_errors_are_no_figure_of_their_own():
    with paper_style():
        assert list(draw(curve("wanda"))) == ["accuracy_curve_sentiment"]
