"""No figure may fail over a record it cannot show: it would take the end of a whole sweep with it."""

import pytest
from made_up import chain, record, reduced

from slimsweep.figures import known
from slimsweep.figures.style import paper_style
from slimsweep.records.record import FIELDS

TIMES = {"evaluate_seconds_wikitext2": 2.0, "threads": 2}
NO_SIZES = dict.fromkeys(("parameters", "nonzero_parameters", "weight_bytes", "bits_per_weight"))
NOTHING_MEASURED = NO_SIZES | {"perplexity_wikitext2": None, "accuracy_sentiment": None}
FEW = ("key", "model", "technique", "protocols", "perplexity_wikitext2", "stages")


def staged(technique, ratios, **values):
    """A chain in which each stage has its own ratio, or none."""
    own = set(ratios) - {None}
    made = chain(technique, own.pop() if len(own) == 1 else None, **values)
    for stage, ratio in zip(made["stages"], ratios, strict=True):
        stage["fields"] = {} if ratio is None else {"ratio": ratio}
    return made


def joint(ratio, **values):
    """Pruned and quantized by one stage."""
    made = chain("sparsegpt", ratio, fields={"sparsegpt": {"bits": 4}}, **values)
    made["stages"][0]["notes"] = {"bits_per_weight": 4.25}
    return made


def speeds(made, value):
    return made | {"speedup_decode": value, "protocols": made["protocols"] | {"speedup_decode": "decode:8 tokens"}}


def few(made):
    return {name: made[name] for name in FEW}


ORDINARY = [record(**TIMES), chain("nf4", **TIMES), chain("wanda", 0.5, **TIMES), reduced(0.5, **TIMES)]
ODD = {
    "dense": [record()],
    "overflow": [record("wanda", 0.5, perplexity_wikitext2=None, **TIMES)],
    "overflow of the dense model": [record(perplexity_wikitext2=None)],
    "enormous": [chain(name, 0.5, perplexity_wikitext2=1e200, **TIMES) for name in ("wanda", "wanda+nf4")],
    "no accuracy": [chain("wanda+nf4", 0.5, accuracy_sentiment=None, accuracy_stderr_sentiment=None)],
    "no sizes": [record(**NO_SIZES), chain("wanda", 0.5, **NO_SIZES), chain("nf4", **(NO_SIZES | {"bits": None}))],
    "no sizes of parts": [record(**NO_SIZES), reduced(0.5, **NO_SIZES, load_memory_bytes=None, gmacs=None)],
    "parts without memory": [reduced(0.5, load_memory_bytes=None, gmacs=None), record("wanda", 0.5)],
    "overflow of parts": [reduced(0.5, perplexity_wikitext2=None), chain("wanda", 0.5, perplexity_wikitext2=None)],
    "few fields": [few(one) for one in (record(), chain("wanda", 0.5), reduced(0.5), chain("nf4"))],
    "two ratios": [staged("wanda+magnitude", (0.3, 0.5)), staged("wanda+llm_pruner", (0.3, 0.5), **TIMES)],
    "two ratios, quantized": [staged("wanda+magnitude+nf4", (0.3, 0.5, None), **TIMES)],
    "three stages": [staged("wanda+half+nf4", (0.5, None, None)), staged("nf4+half+wanda", (None, None, 0.5))],
    "half": [staged("half", (None,), load_memory_bytes=5), speeds(staged("half", (None,), dtype="float16"), 1.5)],
    "half and unmeasured": [
        speeds(staged("half", (None,), load_memory_bytes=5), 1.5),
        *(chain(name, 0.5, accuracy_sentiment=None, weight_bytes=None) for name in ("wanda", "wanda+nf4")),
    ],
    "joint": [joint(0.5, **TIMES), joint(0.7, perplexity_wikitext2=None), chain("sparsegpt", 0.5)],
    "meta": [one | NOTHING_MEASURED | {"weights": "meta"} for one in (record(), chain("wanda+nf4", 0.5))],
    "meta, no protocols": [reduced(0.5, weights="meta", **NOTHING_MEASURED) | {"protocols": {}}],
    "stages without notes": [record("lora") | {"stages": [{"name": "lora", "fields": {}, "notes": None}]}],
    "all null": [
        record("wanda", 0.5) | dict.fromkeys((*FIELDS[7:], *NOTHING_MEASURED)) | {"protocols": {}, "config": {}}
    ],
}


def rendered(name, records):
    with paper_style():
        figures = known()[0][name].draw(records)
        for figure in figures.values():
            figure.draw_without_rendering()
    return figures


@pytest.mark.parametrize("name", known()[0])
def test_no_records_draw_nothing(name):
    assert rendered(name, []) == {}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", known()[0])
def test_odd_records_alone_and_in_company_break_no_figure(name, odd):
    drawn = [known()[0][name].draw([one]) for one in ODD[odd]]
    drawn.append(rendered(name, ODD[odd]))
    drawn.append(known()[0][name].draw([*ORDINARY, *ODD[odd]]))  # rendered below, with all others: that takes time
    assert all(figure.axes for figures in drawn for figure in figures.values())
    assert len(drawn[-1]) >= len(known()[0][name].draw(ORDINARY))  # company takes no figure away


@pytest.mark.parametrize("name", known()[0])
def test_all_odd_records_together_break_no_figure(name):
    together = rendered(name, [*ORDINARY, *(one for records in ODD.values() for one in records)])
    assert len(together) >= len(known()[0][name].draw(ORDINARY))
