import pytest
from made_up import chain, record

from slimsweep.figures.order import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def chains(technique, **values):
    """Perplexities by ratio, written as `r2=12.0` for ratio 0.2."""
    return [chain(technique, int(name[1:]) / 10, perplexity_wikitext2=value) for name, value in values.items()]


BOTH = [*chains("wanda+nf4", r2=12.0, r5=20.0), *chains("nf4+wanda", r2=15.0, r5=30.0)]


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_both_orders_share_a_colour_and_quantizing_first_is_dashed():
    upper, _ = draw([record(), *BOTH])["order_wikitext2"].axes
    first, second = lines(upper)["wanda+nf4"], lines(upper)["nf4+wanda"]
    assert first.get_color() == second.get_color()
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert list(second.get_xdata()) == [0.2, 0.5] and list(second.get_ydata()) == [15.0, 30.0]
    assert "dense (10)" in lines(upper) and upper.get_yscale() == "log"


def test_the_lower_panel_divides_quantizing_first_by_pruning_first():
    _, lower = draw([*BOTH, *chains("wanda+nf4", r7=50.0)])["order_wikitext2"].axes
    quotient, one = lower.get_lines()
    assert list(quotient.get_xdata()) == [0.2, 0.5] and list(quotient.get_ydata()) == pytest.approx([1.25, 1.5])
    assert list(one.get_ydata()) == [1, 1]


def test_an_overflow_of_either_order_has_no_quotient_and_is_marked():
    upper, lower = draw([*BOTH, *chains("wanda+nf4", r7=50.0), *chains("nf4+wanda", r7=None)])["order_wikitext2"].axes
    assert list(lower.get_lines()[0].get_xdata()) == [0.2, 0.5]
    assert list(lines(upper)["nf4+wanda: no finite value"].get_xdata()) == [0.7]


def test_pairs_differ_in_colour_and_chains_without_their_reverse_are_left_out():
    more = [*chains("sparsegpt+nf4", r2=11.0), *chains("nf4+sparsegpt", r2=11.5), *chains("wanda+rtn", r2=13.0)]
    upper, lower = draw([*BOTH, *more])["order_wikitext2"].axes
    found = lines(upper)
    assert set(found) == {"wanda+nf4", "nf4+wanda", "sparsegpt+nf4", "nf4+sparsegpt"}
    assert found["wanda+nf4"].get_color() != found["sparsegpt+nf4"].get_color()
    assert len(lower.get_lines()) == 3


def test_settings_are_compared_with_their_own():
    knobs = [{"nf4": {"block_size": size}} for size in (64, 128)]
    made = [chain(name, 0.5, fields=fields) for fields in knobs for name in ("wanda+nf4", "nf4+wanda")]
    upper, _ = draw(made)["order_wikitext2"].axes
    assert list(lines(upper)) == [
        *("wanda+nf4, block_size 128", "nf4+wanda, block_size 128"),
        *("wanda+nf4, block_size 64", "nf4+wanda, block_size 64"),
    ]


def test_one_order_alone_draws_nothing():
    assert draw([record(), *chains("wanda+nf4", r2=12.0), chain("nf4"), chain("wanda", 0.2)]) == {}


def with_half(technique, value):
    made = chain(technique, 0.2, perplexity_wikitext2=value)
    for stage in made["stages"]:
        if stage["name"] == "half":
            stage["fields"] = {"dtype": "bfloat16"}
    return made


def test_only_the_exact_reverse_of_a_chain_is_its_pair():
    made = [with_half("wanda+half+nf4", 13.0), with_half("half+wanda+nf4", 14.0)]
    assert draw([*made, with_half("half+nf4+wanda", 15.0)]) == {}
    upper, _ = draw([*BOTH, *made, with_half("nf4+half+wanda", 16.0)])["order_wikitext2"].axes
    assert set(lines(upper)) == {"wanda+nf4", "nf4+wanda", "wanda+half+nf4", "nf4+half+wanda"}


def test_x_spans_the_ratios_that_were_run():
    _, lower = draw(BOTH)["order_wikitext2"].axes
    assert lower.get_xlim() == pytest.approx((0.15, 0.55)) and list(lower.get_xticks()) == [0.2, 0.5]
