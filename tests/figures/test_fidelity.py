import pytest
from made_up import chain, record

from slimsweep.figures.fidelity import draw
from slimsweep.figures.style import paper_style

KL, AGREES = "kl_wikitext2", "top_agreement_wikitext2"


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def moved(made, kl, agrees):
    """A record that measured fidelity, by the protocol of its perplexity."""
    made["protocols"] = made["protocols"] | {KL: "wikitext2:test:ctx=512:windows=16:all tokens"}
    return made | {KL: kl, AGREES: agrees}


def pruned(ratio, kl, agrees=0.5):
    return moved(record("wanda", ratio), kl, agrees)


def quantized(bits, kl, agrees=0.9):
    return moved(chain("rtn", bits=bits, fields={"rtn": {"bits": round(bits)}}), kl, agrees)


def test_kl_and_agreement_stand_over_ratio_and_bits():
    records = [
        moved(record(), 0.0, 1.0),
        pruned(0.5, 0.4, 0.6),
        pruned(0.3, 0.1, 0.8),
        quantized(4.3, 0.05),
        quantized(3.3, 0.2),
    ]
    over_ratio, over_bits, below, beside = draw(records)["fidelity_wikitext2"].axes
    (line,) = over_ratio.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.3, 0.5], [0.1, 0.4])
    (line,) = over_bits.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([3.3, 4.3], [0.2, 0.05])
    assert list(below.get_lines()[0].get_ydata()) == [0.8, 0.6] and list(beside.get_lines()[0].get_ydata()) == [
        0.9,
        0.9,
    ]
    assert over_ratio.get_yscale() == "log" and below.get_yscale() == "linear"
    assert "nats" in over_ratio.get_ylabel() and "fraction" in below.get_ylabel()
    assert below.get_xlabel() == "ratio of weights removed" and "bits per weight" in beside.get_xlabel()
    assert over_ratio.get_lines()[0].get_color() != over_bits.get_lines()[0].get_color()


def test_one_kind_alone_has_one_column_and_chains_of_both_are_left_out():
    both = moved(chain("wanda+nf4", 0.5), 0.7, 0.4)
    figure = draw([pruned(0.3, 0.1), both])["fidelity_wikitext2"]
    assert len(figure.axes) == 2 and [len(axes.get_lines()) for axes in figure.axes] == [1, 1]


def test_the_title_of_one_column_is_not_cut():
    made = pruned(0.3, 0.1) | {"model": "smollm2_135m_instruct"}
    figure = draw([made, made | {"ratio": 0.5}])["fidelity_wikitext2"]
    figure.canvas.draw()
    title = figure._suptitle.get_window_extent()
    assert title.x0 >= 0 and title.x1 <= figure.bbox.width


def test_records_without_fidelity_and_the_base_alone_draw_nothing():
    assert draw([record(), record("wanda", 0.5)]) == {} and draw([moved(record(), 0.0, 1.0)]) == {}
