import pytest
from made_up import curve, record

from slimsweep.figures.ratio_curve import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def axes_of(records, stem="ratio_curve_wikitext2"):
    return draw(records)[stem].axes[0]


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def test_one_file_per_corpus_with_a_line_per_technique_and_the_dense_level():
    axes = axes_of([record(), *curve("magnitude"), *curve("wanda")])
    assert labels(axes) == ["magnitude", "wanda", "dense (10)"]
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert list(drawn["wanda"].get_xdata()) == [0.1, 0.5, 0.9]
    assert list(drawn["wanda"].get_ydata()) == pytest.approx([11.0, 35.0, 91.0])
    assert drawn["dense (10)"].get_linestyle() == "--"
    assert axes.get_yscale() == "log" and "ratio" in axes.get_xlabel() and "perplexity" in axes.get_ylabel()


def test_seeds_give_a_band_that_the_legend_explains():
    axes = axes_of([record("wanda", ratio, seed) for ratio in (0.1, 0.5) for seed in (0, 1, 2)])
    assert len(axes.collections) >= 1
    assert axes.get_legend().get_title().get_text() == "band: ±1 s.d. over 3 seeds"


def test_single_seeds_give_no_band():
    axes = axes_of(curve("wanda"))
    assert not axes.collections and axes.get_legend().get_title().get_text() == ""


def test_an_overflow_is_marked_not_dropped():
    axes = axes_of([record("wanda", 0.5), record("wanda", 0.9, perplexity_wikitext2=None)])
    assert "wanda: no finite value" in labels(axes)


def test_two_protocols_give_two_files():
    other = "wikitext2:test:join=x:ctx=2048:windows=16"
    stems = set(draw([*curve("wanda"), *curve("wanda", protocol=other)]))
    assert len(stems) == 2 and all(stem.startswith("ratio_curve_wikitext2_") for stem in stems)


def test_a_dense_record_alone_draws_nothing():
    assert draw([record()]) == {}
