from made_up import curve, record, reduced

from slimsweep.figures.cost_curve import draw
from slimsweep.figures.style import paper_style

DENSE = {"load_memory_bytes": 2000, "gmacs": 1.0}


def test_block_and_channel_are_lines_over_three_costs_and_dense_is_a_star():
    records = [record(**DENSE), reduced(0.25), reduced(0.5), reduced(0.2, "channel"), reduced(0.4, "channel")]
    with paper_style():
        figure = draw(records)["cost_curve_wikitext2"]
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "parameters (thousands), log scale",
        "memory after loading (MiB), log scale",
        "GMacs, log scale",
    ]
    drawn = {line.get_label(): list(line.get_xdata()) for line in figure.axes[2].get_lines()}
    assert drawn == {"llm_pruner, level block": [0.6, 0.8], "llm_pruner, level channel": [0.68, 0.84], "dense": [1.0]}
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)


def test_zeroed_weights_are_not_among_them_since_they_cost_what_the_dense_model_does():
    with paper_style():
        assert draw([record(**DENSE), *curve("wanda")]) == {}
        figure = draw([record(**DENSE), *curve("wanda"), reduced(0.5)])["cost_curve_wikitext2"]
    assert {line.get_label() for line in figure.axes[0].get_lines()} == {"llm_pruner", "dense"}
