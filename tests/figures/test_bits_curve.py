import pytest
from made_up import chain, record

from slimsweep.figures.bits_curve import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def rtn(codes, stored, value, **knobs):
    return chain("rtn", bits=stored, perplexity_wikitext2=value, fields={"rtn": {"bits": codes} | knobs})


def drawn(records):
    (axes,) = draw(records)["bits_curve_wikitext2"].axes
    return axes, {line.get_label(): line for line in axes.get_lines()}


def test_bits_are_places_on_one_line_not_variants():
    axes, found = drawn(
        [record(), rtn(3, 3.25, 20.0), rtn(8, 8.25, 11.0), rtn(4, 4.25, 13.0), chain("nf4", bits=4.127)]
    )
    assert list(found["rtn"].get_xdata()) == [3.25, 4.25, 8.25]
    assert list(found["rtn"].get_ydata()) == [20.0, 13.0, 11.0]
    assert list(found["nf4"].get_xdata()) == [4.127]
    assert axes.get_xscale() == axes.get_yscale() == "log" and "bits per weight" in axes.get_xlabel()
    ticks = list(axes.get_xticks())
    assert ticks == [4, 6, 8]


def test_other_knobs_are_lines_of_their_own_named_by_what_differs():
    _, found = drawn(
        [rtn(4, 4.25, 13.0, group_size=64), rtn(4, 4.125, 14.0, group_size=128), rtn(3, 3.125, 20.0, group_size=128)]
    )
    assert list(found["rtn, group_size 64"].get_xdata()) == [4.25]
    assert list(found["rtn, group_size 128"].get_xdata()) == [3.125, 4.125]


def test_the_dense_model_is_a_dashed_level_and_a_star_at_its_bits():
    axes, found = drawn([record(bits_per_weight=16.0), rtn(4, 4.25, 13.0)])
    assert list(found["dense (10)"].get_ydata()) == [10.0, 10.0] and found["dense (10)"].get_linestyle() == "--"
    (star,) = [line for line in axes.get_lines() if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([16.0], [10.0])
    assert axes.get_xlim()[1] > 16


def test_pruned_chains_are_left_out():
    _, found = drawn([rtn(4, 4.25, 13.0), chain("wanda+nf4", 0.5)])
    assert "wanda+nf4" not in found
    assert draw([record(), chain("wanda+nf4", 0.5)]) == {}


def test_an_overflow_is_marked_at_its_bits():
    axes, found = drawn([rtn(4, 4.25, 13.0), rtn(2, 2.25, None)])
    assert list(found["rtn: no finite value"].get_xdata()) == [2.25] and axes.get_xlim()[0] < 2.25


def test_budgets_of_selective_bits_are_one_line_too():
    made = [chain("rtn", bits=bits, fields={"rtn": {"average_bits": bits}}) for bits in (3.5, 6.0)]
    _, found = drawn(made)
    assert list(found["rtn"].get_xdata()) == [3.5, 6.0]
