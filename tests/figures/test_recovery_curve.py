import pytest
from made_up import chain, record

from slimsweep.figures.recovery_curve import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def trained(technique, ratio, before, after):
    made = chain(technique, ratio, perplexity_wikitext2=after)
    for stage in made["stages"][1:]:
        stage["notes"] = {"training": {"curve": []}}
    return made | {"perplexity_wikitext2_before": before}


def test_before_is_drawn_once_and_after_for_each_technique():
    lora = [trained("llm_pruner+lora", ratio, 30 * ratio + 10, 20 * ratio + 10) for ratio in (0.2, 0.4)]
    distil = [trained("llm_pruner+distill", ratio, 30 * ratio + 10, 15 * ratio + 10) for ratio in (0.2, 0.4)]
    figure = draw([record(), *lora, *distil])["recovery_curve_wikitext2"]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["llm_pruner+lora"].get_ydata()) == pytest.approx([14, 18])
    assert list(lines["llm_pruner+distill"].get_ydata()) == pytest.approx([13, 16])
    (before,) = [line for label, line in lines.items() if label.startswith("before training")]
    assert list(before.get_ydata()) == pytest.approx([16, 22]) and before.get_linestyle() == ":"
    assert "dense (10)" in lines


def test_records_without_training_draw_nothing():
    assert draw([record(), chain("wanda+nf4", 0.5)]) == {}
