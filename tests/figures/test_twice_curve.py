import pytest
from made_up import record

from slimsweep.figures.style import paper_style
from slimsweep.figures.twice_curve import draw


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def pruned(ratio, value, passes=1, of="original", technique="wanda", seed=None):
    return record(technique, ratio, seed, fields={"passes": passes, "relative_to": of}, perplexity_wikitext2=value)


STUDY = [
    pruned(0.5, 20.0),
    pruned(0.75, 90.0),
    pruned(0.5, 20.0, 2, "original"),
    pruned(0.5, 80.0, 2, "remaining"),
]


def drawn(records, place=0):
    axes = draw(records)["twice_curve_wikitext2"].axes[place]
    return axes, {
        line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.get_lines()
    }


def test_four_lines_compare_at_equal_s_and_at_equal_sparsity():
    _, found = drawn([record(), *STUDY])
    assert found["one pass at s"] == [(0.75, 20.0)]
    assert found["two passes at s, of the original"] == [(0.75, 20.0)]
    assert found["two passes at s, of what remains"] == [(0.75, 80.0)]
    assert found["one pass at x"] == [(0.5, 20.0), (0.75, 90.0)]
    assert found["dense (10)"][0][1] == 10.0


def test_two_passes_remove_what_the_formula_says_without_float_dust():
    _, found = drawn([pruned(0.1, 11.0, 2, "remaining"), pruned(0.3, 14.0, 2, "remaining")])
    assert [x for x, _ in found["two passes at s, of what remains"]] == [0.19, 0.51]


def test_a_line_without_records_is_not_drawn():
    _, found = drawn([pruned(0.5, 20.0), pruned(0.5, 80.0, 2, "remaining")])
    assert "two passes at s, of the original" not in found and "one pass at s" in found


def test_a_record_that_tells_no_passes_was_pruned_once():
    _, found = drawn([record("wanda", 0.3, perplexity_wikitext2=14.0), pruned(0.5, 80.0, 2, "remaining")])
    assert found["one pass at x"] == [(0.3, 14.0)]


def test_one_pass_of_what_remains_is_no_second_seed():
    axes, found = drawn([*STUDY, pruned(0.75, 90.0, 1, "remaining")])
    assert found["one pass at x"] == [(0.5, 20.0), (0.75, 90.0)] and not axes.collections


def test_each_technique_has_a_panel():
    other = [pruned(0.5, 30.0, technique="magnitude"), pruned(0.5, 30.0, 2, technique="magnitude")]
    axes, found = drawn([*STUDY, *other])
    assert axes.get_title(loc="left") == "magnitude" and found["one pass at s"] == [(0.75, 30.0)]
    axes, _ = drawn([*STUDY, *other], 1)
    assert axes.get_title(loc="left") == "wanda"


def test_the_upper_edge_shows_s():
    axes, _ = drawn(STUDY)
    axes.figure.draw_without_rendering()
    (upper,) = axes.child_axes
    places = [upper.get_xaxis().get_transform().transform((tick, 0))[0] for tick in (0.0, 0.2, 1.0)]
    assert (places[1] - places[0]) / (places[2] - places[0]) == pytest.approx(0.36)


def test_single_passes_alone_draw_nothing():
    assert draw([record(), pruned(0.5, 20.0), pruned(0.75, 90.0)]) == {}
