from made_up import curve, record

from slimsweep.figures.ratio_zoom import draw
from slimsweep.figures.style import paper_style


def test_six_panels_zoom_in_with_ranges_of_their_own():
    with paper_style():
        figure = draw([record(), *curve("wanda")])["ratio_zoom_wikitext2"]
    limits = [round(axes.get_xlim()[1] / 1.02, 6) for axes in figure.axes]
    assert limits == [0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
    shown = [list(axes.get_lines()[0].get_xdata()) for axes in figure.axes]
    assert shown == [[0.1], [0.1], [0.1, 0.5], [0.1, 0.5], [0.1, 0.5], [0.1, 0.5, 0.9]]
    assert figure.axes[0].get_ylim()[1] < 12 < 80 < figure.axes[5].get_ylim()[1]


def test_a_panel_without_any_point_is_left_empty():
    with paper_style():
        figure = draw([record("wanda", 0.9)])["ratio_zoom_wikitext2"]
        figure.draw_without_rendering()
    assert len(figure.axes) == 6
