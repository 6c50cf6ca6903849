import pytest
from made_up import chain, record

from slimsweep.figures.style import paper_style
from slimsweep.figures.workflow import draw, steps_of


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def along(*techniques):
    return [
        record(),
        *(chain(one, 0.2, perplexity_wikitext2=10.0 + 5 * place) for place, one in enumerate(techniques, 1)),
    ]


def test_each_prefix_is_a_step_and_other_orders_stand_beside_the_end():
    made = [*along("glu", "glu+nf4", "glu+nf4+lora"), chain("nf4+glu+lora", 0.2, perplexity_wikitext2=40.0)]
    upper, lower = draw(made)["workflow_wikitext2"].axes
    steps, others = upper.get_lines()[:2]
    assert list(steps.get_ydata()) == [10.0, 15.0, 20.0, 25.0] and list(others.get_ydata()) == [40.0]
    assert [tick.get_text() for tick in lower.get_xticklabels()] == [
        *("dense", "+ glu", "+ nf4", "+ lora"),
        "instead:\nnf4\nglu\nlora",
    ]


def test_a_chain_with_a_missing_prefix_is_no_workflow():
    assert [one["technique"] for one in steps_of(along("glu", "glu+nf4+lora"))] == ["dense", "glu"]
    assert draw(along("glu")) == {}
