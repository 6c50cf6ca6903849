import pytest
from made_up import PROTOCOL, chain, record

from slimsweep.figures.quantized_curve import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def pruned(*techniques, **values):
    return [chain(technique, ratio, **values) for technique in techniques for ratio in (0.2, 0.5)]


def drawn(records, stem="quantized_curve_wikitext2"):
    (axes,) = draw(records)[stem].axes
    return {line.get_label(): line for line in axes.get_lines()}


def test_colour_tells_plain_or_quantized_and_marker_what_was_removed():
    found = drawn(
        [record(), chain("nf4"), *pruned("wanda", "wanda+nf4", "llm_pruner", "llm_pruner+nf4")],
    )
    assert set(found) == {"dense", "nf4", "wanda", "wanda+nf4", "llm_pruner", "llm_pruner+nf4"}
    colours = {label: line.get_color() for label, line in found.items()}
    assert colours["dense"] == colours["wanda"] == colours["llm_pruner"]
    assert colours["nf4"] == colours["wanda+nf4"] == colours["llm_pruner+nf4"] != colours["dense"]
    markers = {label: line.get_marker() for label, line in found.items()}
    assert markers["wanda"] == markers["wanda+nf4"] != markers["llm_pruner"] == markers["llm_pruner+nf4"]
    assert found["wanda+nf4"].get_linestyle() == "-" and found["llm_pruner+nf4"].get_linestyle() == "--"
    assert list(found["wanda+nf4"].get_xdata()) == [0.2, 0.5]
    assert list(found["wanda+nf4"].get_ydata()) == pytest.approx([14.0, 35.0])


def test_dense_models_are_single_points_at_ratio_0():
    found = drawn([record(), chain("nf4", perplexity_wikitext2=12.0), *pruned("wanda+nf4")])
    for label, value in (("dense", 10.0), ("nf4", 12.0)):
        assert list(found[label].get_xdata()) == [0.0] and list(found[label].get_ydata()) == [value]
        assert found[label].get_marker() == "*"


def test_another_quantizer_and_the_other_order_have_colours_of_their_own():
    found = drawn([record(), *pruned("wanda", "wanda+nf4", "nf4+wanda", "wanda+rtn")])
    assert len({line.get_color() for line in found.values()}) == 4
    assert len({found[label].get_marker() for label in ("wanda", "wanda+nf4", "nf4+wanda", "wanda+rtn")}) == 1


def test_variants_of_a_pruner_share_a_colour_and_differ_in_marker():
    made = [
        one
        for level in ("block", "channel")
        for one in pruned("llm_pruner", "llm_pruner+nf4", fields={"llm_pruner": {"level": level}})
    ]
    found = drawn(made)
    block, channel = found["llm_pruner+nf4, level block"], found["llm_pruner+nf4, level channel"]
    assert block.get_color() == channel.get_color() and block.get_marker() != channel.get_marker()
    assert found["llm_pruner, level channel"].get_marker() == channel.get_marker()


def test_a_chain_that_only_overflowed_is_marked_at_its_ratio():
    found = drawn([record(), *pruned("wanda+nf4"), chain("llm_pruner+nf4", 0.5, perplexity_wikitext2=None)])
    mark = found["llm_pruner+nf4: no finite value"]
    assert list(mark.get_xdata()) == [0.5] and mark.get_markeredgecolor() == found["wanda+nf4"].get_color()


def test_nothing_quantized_or_nothing_pruned_makes_no_curve():
    assert draw([record(), *pruned("wanda")]) == {}
    assert draw([record(), chain("nf4")]) == {}


def test_chains_of_two_ratios_have_no_place():
    several = chain("wanda+magnitude+nf4", 0.5) | {"ratio": None}
    assert several["ratio"] is None and draw([record(), several]) == draw([record(), chain("nf4"), several]) == {}
    assert "wanda+magnitude+nf4" not in drawn([record(), *pruned("wanda+nf4"), several])


def test_two_protocols_never_share_an_axis():
    longer = PROTOCOL.replace("ctx=512", "ctx=2048")
    assert set(draw([*pruned("wanda+nf4"), *pruned("wanda+nf4", protocol=longer)])) == {
        "quantized_curve_wikitext2_ctx-512",
        "quantized_curve_wikitext2_ctx-2048",
    }


def test_a_stage_that_prunes_and_quantizes_at_once_is_told_from_a_chain_of_both():
    joint = [pruned_at_once(ratio) for ratio in (0.2, 0.5)]
    found = drawn([record(), *pruned("sparsegpt", "sparsegpt+rtn"), *joint])
    labels = ("sparsegpt, bits None", "sparsegpt+rtn", "sparsegpt, bits 4")
    assert len({(found[label].get_color(), found[label].get_marker()) for label in labels}) == 3
    assert len({found[label].get_color() for label in labels}) == 3


def pruned_at_once(ratio):
    made = chain("sparsegpt", ratio, fields={"sparsegpt": {"bits": 4}})
    made["stages"][0]["notes"] = {"bits_per_weight": 4.25}
    return made
