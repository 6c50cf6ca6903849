import pytest
from made_up import chain, record

from slimsweep.figures.quantized_panels import draw
from slimsweep.figures.style import paper_style

STEM = "quantized_panels_wikitext2"


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def compared(made, prefill, decode, **values):
    """A record whose speed-ups were measured beside the dense model."""
    protocols = {"speedup_prefill": "prefill:1x64", "speedup_decode": "decode:8 tokens after 1x64"}
    return made | {
        "speedup_prefill": prefill,
        "speedup_decode": decode,
        "protocols": made["protocols"] | protocols,
        **values,
    }


def panes(records):
    figure = draw(records)[STEM]
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def test_every_measured_quantity_has_a_panel_with_its_unit():
    made = [
        record(load_memory_bytes=2**30),
        chain("wanda", 0.5, load_memory_bytes=2**30),
        compared(chain("wanda+nf4", 0.5, load_memory_bytes=2**28), 0.5, 2.0),
    ]
    units = {title: axes.get_ylabel() for title, axes in panes(made).items()}
    assert units == {
        "perplexity, wikitext2": "perplexity (log scale)",
        "sentiment": "accuracy (s.e. ≤ 0.030)",
        "weights in memory": "memory (MiB)",
        "memory after loading": "memory (GiB)",
        "decode speed": "times as fast as dense",
        "prefill speed": "times as fast as dense",
    }


def test_what_was_not_measured_has_no_panel():
    assert set(panes([record(accuracy_sentiment=None), chain("wanda+nf4", 0.5, accuracy_sentiment=None)])) == {
        "perplexity, wikitext2",
        "weights in memory",
    }


def test_values_stand_over_the_ratio_in_the_unit_of_their_axis():
    found = panes([record(), chain("wanda", 0.5), compared(chain("wanda+nf4", 0.5), 0.5, 2.0)])
    weights = {line.get_label(): line for line in found["weights in memory"].get_lines()}
    assert list(weights["dense"].get_ydata()) == [2.0] and list(weights["wanda"].get_ydata()) == [2.0]
    assert list(weights["wanda+nf4"].get_xdata()) == [0.5] and list(weights["wanda+nf4"].get_ydata()) == [0.5]
    speeds = {line.get_label(): list(line.get_ydata()) for line in found["decode speed"].get_lines()}
    assert speeds["wanda+nf4"] == [2.0] and "wanda" not in speeds
    assert found["weights in memory"].get_ylim()[0] == 0 and found["perplexity, wikitext2"].get_yscale() == "log"
    accuracy = {line.get_label(): list(line.get_ydata()) for line in found["sentiment"].get_lines()}
    assert accuracy["wanda+nf4"] == pytest.approx([0.6])


def test_a_chain_looks_the_same_in_every_panel():
    looks = [
        (line.get_color(), line.get_marker())
        for axes in panes([record(), chain("nf4"), chain("wanda", 0.5), chain("wanda+nf4", 0.5)]).values()
        for line in axes.get_lines()
        if line.get_label() == "wanda+nf4"
    ]
    assert len(looks) == 3 and len(set(looks)) == 1


def test_speeds_of_two_devices_have_panels_of_their_own():
    made = [compared(chain("wanda+nf4", 0.5), 0.5, 2.0, device=device, threads=2) for device in ("cpu", "H200")]
    assert {"decode speed, cpu-2", "decode speed, H200-2"} <= set(panes(made))


def test_accuracies_of_two_protocols_have_panels_of_their_own():
    other = chain("wanda+nf4", 0.2)
    other["protocols"] |= {"accuracy_sentiment": "sentiment:v1:limit=400"}
    titles = set(panes([chain("wanda+nf4", 0.5), other]))
    assert {"sentiment, limit-200", "sentiment, limit-400"} <= titles and "sentiment" not in titles


def test_a_quantity_measured_by_chains_without_a_place_only_has_no_panel():
    half = chain("half", load_memory_bytes=2**28)
    half["stages"][0]["fields"] = {}
    made = [chain(name, 0.5) for name in ("wanda", "wanda+nf4")]
    assert set(panes([*made, compared(half, 1.5, 1.2)])) == {"perplexity, wikitext2", "sentiment", "weights in memory"}


def test_nothing_quantized_draws_nothing():
    assert draw([record(), chain("wanda", 0.5)]) == {}
