import pytest
from made_up import chain, record

from slimsweep.figures.accuracy_size_latency import draw, names_of
from slimsweep.figures.style import paper_style


def timed(made, seconds, **values):
    return made | {"latency_seconds": seconds, "threads": 2} | values


@pytest.fixture
def records():
    return [timed(record(), 0.02), timed(chain("wanda", 0.5), 0.01, weight_bytes=2**20)]


def test_each_model_is_one_mark_in_both_panels(records):
    with paper_style():
        upper, lower = draw(records)["accuracy_size_latency_sentiment"].axes
    assert [list(bar.lines[0].get_xdata()) for bar in upper.containers] == [[2.0], [1.0]]  # MiB
    assert [list(bar.lines[0].get_xdata()) for bar in lower.containers] == [
        [pytest.approx(20.0)],
        [pytest.approx(10.0)],
    ]
    assert [bar.get_label() for bar in lower.containers] == ["dense", "wanda 0.5"]
    assert lower.get_xlabel().endswith("(ms)")


def test_times_of_two_machines_share_no_figure(records):
    others = [one | {"threads": 8} for one in records]
    with paper_style():
        assert sorted(draw([*records, *others])) == [
            "accuracy_size_latency_sentiment_cpu-2",
            "accuracy_size_latency_sentiment_cpu-8",
        ]


def test_without_latency_there_is_nothing_to_show(records):
    assert draw([record(), record("wanda", 0.5)]) == {}
    assert draw(records[:1]) == {}


def test_models_of_one_chain_are_named_by_what_differs():
    made = [record("rtn", fields={"bits": bits}) for bits in (4, 8)]
    assert names_of(made) == ["rtn, bits 4", "rtn, bits 8"]
