import pytest
from made_up import record

from slimsweep.figures.engines import draw
from slimsweep.figures.style import paper_style


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def made():
    ours = [record("sparsegpt", ratio, perplexity_wikitext2=20.0 * ratio) for ratio in (0.5, 0.7)]
    theirs = [
        record("llmcompressor", ratio, fields={"method": "sparsegpt"}, perplexity_wikitext2=22.0 * ratio)
        for ratio in (0.5, 0.7)
    ]
    older = [record("sparseml", 0.5, pattern="2:4", compress_seconds=60.0)]
    bits = [record("gptq", fields={"bits": 4}), record("llmcompressor_quantizer", fields={"bits": 4, "method": "gptq"})]
    alone = [record("wanda", 0.5), record("awq", fields={"bits": 4})]
    return [record(), *ours, *theirs, *older, *bits, *alone]


def points(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_methods_of_one_engine_alone_are_left_out():
    axes = draw(made())["engines_wikitext2"].axes
    assert [part.get_title() for part in axes[:2]] == ["sparsegpt", "gptq"]
    assert len(axes) == 4


def test_engines_stand_side_by_side_at_each_setting():
    upper, _, lower, bits = draw(made())["engines_wikitext2"].axes
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["0.5", "0.7", "2:4"]
    assert [tick.get_text() for tick in bits.get_xticklabels()] == ["4 bits"]
    found = points(upper)
    assert found["slimsweep"][1] == [10.0, 14.0]
    assert found["llm-compressor"][1] == pytest.approx([11.0, 15.4])
    assert found["slimsweep"][0][0] < found["llm-compressor"][0][0] == 0
    assert found["sparseml"][0] == pytest.approx([2.18])
    assert points(lower)["sparseml"][1] == [60.0]
    assert upper.get_yscale() == lower.get_yscale() == "log"
    assert "dense (10)" in found


def test_chains_overflows_and_a_single_engine():
    assert draw([record(), record("sparsegpt", 0.5)]) == {}
    both = [record("sparsegpt", 0.5), record("sparseml", 0.5, perplexity_wikitext2=None)]
    chain = record("sparsegpt+nf4", 0.5)
    chain["stages"] = chain["stages"] * 2
    upper, lower = draw([*both, chain])["engines_wikitext2"].axes
    assert set(points(upper)) == {"slimsweep"}
    assert set(points(lower)) == {"slimsweep", "sparseml"}


def test_settings_tell_groups_and_techniques_without_any_are_left_out():
    four = {"bits": 4, "group_size": 64}
    peer = record("llmcompressor_quantizer", fields=four | {"method": "gptq"})
    records = [record("gptq", fields=four), record("gptq", fields={"bits": 4}), peer, record("half")]
    _, lower = draw(records)["engines_wikitext2"].axes
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["4 bits", "4 bits,\ngroups of 64"]


def test_times_of_two_places_are_two_figures():
    records = [part | {"device": device, "threads": 2} for device in ("cpu", "H100") for part in made()]
    assert set(draw(records)) == {"engines_wikitext2_cpu-2", "engines_wikitext2_H100-2"}
