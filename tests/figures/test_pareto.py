from made_up import curve, record

from slimsweep.figures.pareto import draw, frontier
from slimsweep.figures.style import paper_style


def test_the_frontier_keeps_what_nothing_beats_in_both():
    points = [(3.0, 1.0), (1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (3.0, 2.0)]
    assert frontier(points) == [(1.0, 5.0), (2.0, 4.0), (3.0, 1.0)]


def test_the_frontier_of_what_is_better_when_higher_climbs():
    points = [(3.0, 1.0), (1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (3.0, 7.0)]
    assert frontier(points, higher_is_better=True) == [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0)]


def test_two_panels_show_bytes_and_nonzero_parameters():
    with paper_style():
        upper, lower = draw([record(), *curve("wanda")])["pareto_wikitext2"].axes
    assert upper.get_xlabel() == "weights in memory (MiB)"
    assert "nonzero parameters" in lower.get_xlabel()
    (line,) = [line for line in lower.get_lines() if line.get_label() == "wanda"]
    assert list(line.get_xdata()) == [0.28, 0.6, 0.92]  # thousands


def test_masks_alone_are_said_to_save_no_memory():
    with paper_style():
        upper, lower = draw([record(), *curve("wanda")])["pareto_wikitext2"].axes
    assert any("save no memory" in text.get_text() for text in upper.texts) and not lower.texts


def test_records_without_sizes_draw_nothing_and_one_size_is_enough_for_a_legend():
    sizes = {"weight_bytes": None, "nonzero_parameters": None}
    with paper_style():
        assert draw([record(), *curve("wanda", **sizes)]) == {}
        (figure,) = draw([record(), *curve("wanda", nonzero_parameters=None)]).values()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "wanda"]


def test_overflowed_points_are_left_out():
    with paper_style():
        figure = draw([record(), record("wanda", 0.5), record("wanda", 0.9, perplexity_wikitext2=None)])[
            "pareto_wikitext2"
        ]
    (line,) = [line for line in figure.axes[1].get_lines() if line.get_label() == "wanda"]
    assert len(line.get_xdata()) == 1
