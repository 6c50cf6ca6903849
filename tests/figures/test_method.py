import pytest
from made_up import record, reduced

from slimsweep.figures.method import draw, rows_of
from slimsweep.figures.style import paper_style


def test_rows_say_what_is_kept_in_each_block():
    (stage,) = reduced(0.5)["stages"]
    assert rows_of(stage) == [("llm_pruner: heads, 6 of 8", [1.0, 0.5]), ("llm_pruner: neurons, 60 of 80", [1.0, 0.5])]
    (stage,) = reduced(0.25, "channel")["stages"]
    assert rows_of(stage) == [("llm_pruner: channels, 24 of 32", [0.75])]


def test_removed_blocks_are_the_white_ones():
    (stage,) = reduced(0.5)["stages"]
    stage["notes"]["after"] = {"channels": 32, "blocks": stage["notes"]["before"]["blocks"][:1]}
    stage["notes"]["details"] = [{"kind": "blocks", "removed": 1, "blocks": [1]}]
    assert rows_of(stage) == [("llm_pruner: blocks, 1 of 2", [1.0, 0.0])]


def test_zeroed_weights_are_one_share_of_the_whole_model():
    (stage,) = record("wanda", 0.3)["stages"]
    ((name, shares),) = rows_of(stage | {"sparsity": 0.3})
    assert name == "wanda: weights that are not zero, 70%" and shares == pytest.approx([0.7])


def test_each_chain_has_a_figure_of_its_middle_ratio_and_dense_has_none():
    with paper_style():
        figures = draw([record(), reduced(0.25), reduced(0.5), reduced(0.75), reduced(0.2, "channel")])
    assert set(figures) == {"method_llm_pruner-level-block", "method_llm_pruner-level-channel"}
    assert figures["method_llm_pruner-level-block"].axes[0].get_title(loc="left").endswith("ratio 0.5")
