from made_up import record, reduced

from slimsweep.figures.style import paper_style
from slimsweep.figures.time_curve import draw


def test_perplexity_stands_over_the_seconds_of_its_own_evaluation():
    timed = [record(evaluate_seconds_wikitext2=4.0), reduced(0.5, evaluate_seconds_wikitext2=2.0)]
    with paper_style():
        (axes,) = draw(timed)["time_curve_wikitext2"].axes
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert list(drawn["llm_pruner"].get_xdata()) == [2.0] and list(drawn["dense"].get_xdata()) == [4.0]
    assert drawn["llm_pruner"].get_markerfacecolor() == "white"


def test_records_without_times_are_not_drawn():
    assert draw([record(), reduced(0.5)]) == {}


def test_times_of_two_devices_never_share_a_figure():
    timed = [
        record("wanda", ratio, device=device, threads=2, evaluate_seconds_wikitext2=1.0)
        for ratio, device in ((0.3, "cpu"), (0.5, "H200"))
    ]
    with paper_style():
        assert set(draw(timed)) == {"time_curve_wikitext2_H200-2", "time_curve_wikitext2_cpu-2"}
