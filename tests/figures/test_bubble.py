import math

import pytest
from made_up import PROTOCOL, chain, record

from slimsweep.figures.bubble import draw, round_down
from slimsweep.figures.style import paper_style

SMALL = {"model": "small", "parameters": 1000, "evaluate_seconds_wikitext2": 2.0, "threads": 2}
LARGE = {"model": "org/large", "parameters": 5000, "evaluate_seconds_wikitext2": 8.0, "threads": 2}

EIGHT = [
    *(record(**SMALL), chain("nf4", **SMALL), record(**LARGE), chain("nf4", **LARGE)),
    *(chain("wanda", 0.3, **LARGE), chain("wanda", 0.7, **LARGE), chain("wanda+nf4", 0.5, **LARGE)),
    *(chain("llm_pruner", 0.5, **SMALL), chain("llm_pruner+nf4", 0.5, **SMALL)),
]


@pytest.fixture(autouse=True)
def style():
    with paper_style():
        yield


def axes_of(records, stem="bubble_time_wikitext2"):
    return draw(records)[stem].axes[0]


def names(axes):
    return [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]


def bubbles(axes):
    """(x, perplexity, size, colour) of every bubble."""
    return [
        (*one.get_offsets()[0].tolist(), one.get_sizes()[0], tuple(one.get_facecolors()[0])) for one in axes.collections
    ]


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_eight_categories_stand_side_by_side_smaller_model_first():
    axes = axes_of(EIGHT)
    assert names(axes) == [
        *("dense small", "dense small quantized", "dense large", "dense large quantized"),
        *("unstructured", "unstructured quantized", "structured", "structured quantized"),
    ]
    places = sorted(round(x) for x, *_ in bubbles(axes))
    assert places == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert axes.get_yscale() == "log"


def test_each_record_is_a_bubble_at_its_perplexity_placed_and_labelled_by_ratio():
    axes = axes_of(EIGHT)
    low, high = sorted(bubble[:2] for bubble in bubbles(axes) if round(bubble[0]) == 4)
    assert low == pytest.approx((3.66, 19.0)) and high == pytest.approx((4.34, 59.0))
    assert sorted(words(axes)) == ["0.3", "0.5", "0.5", "0.5", "0.7"]


def test_every_category_has_a_colour_of_its_own():
    assert len({(round(x), colour) for x, _, _, colour in bubbles(axes_of(EIGHT))}) == 8
    assert len({colour for *_, colour in bubbles(axes_of(EIGHT))}) == 8


def test_area_is_the_time_of_the_evaluation_or_the_bytes_of_the_weights():
    sizes = {round(x): size for x, _, size, _ in bubbles(axes_of(EIGHT))}
    assert sizes[2] / sizes[0] == pytest.approx(4.0)  # 8 s and 2 s
    sizes = {round(x): size for x, _, size, _ in bubbles(axes_of(EIGHT, "bubble_bytes_wikitext2"))}
    assert sizes[2] / sizes[3] == pytest.approx(4.0) and sizes[2] == pytest.approx(sizes[0])  # 2 MiB and 0.5 MiB


def test_another_shape_has_the_same_area():
    made = [chain("rtn", fields={"rtn": {"bits": bits}}, **SMALL) for bits in (3, 4)]
    circle, square = sorted(bubbles(axes_of([record(**SMALL), *made])))[1:]
    assert circle[2] * math.pi / 4 == pytest.approx(square[2]) and circle[0] < 1 < square[0]


def test_a_second_model_that_was_not_run_is_said_to_be_so():
    axes = axes_of([record(**SMALL), chain("nf4", **SMALL), chain("wanda", 0.5, **SMALL)])
    assert names(axes)[2:4] == ["dense model 2", "dense model 2 quantized"]
    missing = [text.get_position()[0] for text in axes.texts if text.get_text() == "not run"]
    assert missing == [2, 3, 5, 6, 7]


def test_models_of_several_tokenizers_share_the_axis_and_the_title_warns():
    assert "okenizers" not in axes_of(EIGHT).get_title(loc="left")
    other = PROTOCOL.replace("11112222", "77778888")
    axes = axes_of([record(**SMALL), chain("wanda", 0.5, **SMALL), record(protocol=other, **LARGE)])
    assert "Tokenizers differ" in axes.get_title(loc="left").replace("\n", " ") and len(bubbles(axes)) == 3


def test_protocols_that_differ_otherwise_are_files_of_their_own():
    longer = PROTOCOL.replace("ctx=512", "ctx=2048")
    made = [chain("wanda", 0.5, **SMALL), chain("wanda", 0.5, protocol=longer, **SMALL)]
    assert set(draw(made)) == {
        f"bubble_{size}_wikitext2_ctx-{length}" for size in ("time", "bytes") for length in (512, 2048)
    }


def test_times_of_two_devices_are_files_of_their_own_and_bytes_are_not():
    made = [chain("wanda", 0.5, **SMALL | {"device": device}) for device in ("cpu", "H200")]
    assert set(draw(made)) == {"bubble_time_wikitext2_cpu-2", "bubble_time_wikitext2_H200-2", "bubble_bytes_wikitext2"}


def test_an_overflow_is_a_hollow_mark_at_the_upper_edge():
    axes = axes_of(
        [record(**SMALL), chain("wanda", 0.5, **SMALL), chain("wanda+nf4", 0.5, **SMALL, perplexity_wikitext2=None)]
    )
    (mark,) = axes.get_lines()
    assert (list(mark.get_xdata()), mark.get_marker(), mark.get_markerfacecolor()) == ([5.0], "^", "white")


def test_dense_models_alone_and_records_without_times_draw_nothing():
    assert draw([record(**SMALL), record(**LARGE)]) == {}
    assert set(draw([record(), chain("wanda", 0.5)])) == {"bubble_bytes_wikitext2"}


def test_the_key_of_areas_has_round_values():
    assert [round_down(value) for value in (0.7, 1.0, 4.9, 5.0, 130.0)] == [0.5, 1, 2, 5, 100]
    legend = draw(EIGHT)["bubble_time_wikitext2"].legends[1]
    assert [text.get_text() for text in legend.get_texts()] == ["5 s", "2 s", "0.5 s"]
