from made_up import chain, curve, record, reduced

from slimsweep.figures.structured_vs_unstructured import draw
from slimsweep.figures.style import paper_style


def test_parts_are_dashed_and_zeros_solid_over_ratio_and_over_what_is_left():
    with paper_style():
        figure = draw([record(), *curve("wanda"), reduced(0.25), reduced(0.5)])["structured_vs_unstructured_wikitext2"]
    asked, left = figure.axes
    styles = {line.get_label(): line.get_linestyle() for line in left.get_lines()}
    assert styles["wanda"] == "-" and styles["llm_pruner"] == "--"
    (line,) = [line for line in asked.get_lines() if line.get_label() == "llm_pruner"]
    assert list(line.get_xdata()) == [0.25, 0.5]
    (line,) = [line for line in left.get_lines() if line.get_label() == "llm_pruner"]
    assert list(line.get_xdata()) == [0.6, 0.8]  # thousands


def test_one_kind_alone_makes_no_comparison():
    assert draw([record(), *curve("wanda")]) == {}
    assert draw([record(), reduced(0.5)]) == {}


def test_a_kind_that_only_overflowed_or_was_never_pruned_makes_no_comparison():
    assert draw([record(), *curve("wanda", perplexity_wikitext2=None), reduced(0.5)]) == {}
    assert draw([record(), chain("nf4"), reduced(0.5)]) == {}
