import math

import pytest
from made_up import chain, record, reduced

from slimsweep.evaluation.perplexity import non_finite_reason
from slimsweep.records.store import JobStatus, Store
from slimsweep.reports.cautions import cautions


@pytest.fixture
def found(tmp_path):
    return lambda records, jobs=None: [(one.kind, one.text) for one in cautions(Store(tmp_path), records, jobs or {})]


def test_nothing_is_said_of_sound_records(found):
    assert found([record(), record("wanda", 0.1, sparsity=0.1)]) == []


def test_jobs_without_a_record_are_named_with_their_state(found):
    jobs = {"mine": [JobStatus("a", "wanda 0.5", "failed", "NaN", ""), JobStatus("b", "rtn", "done", "", "")]}
    assert found([record()], jobs) == [("Missing jobs", "mine: wanda 0.5 is failed: NaN")]


def test_a_perplexity_over_ten_times_dense_is_named(found):
    far = record("wanda", 0.9, perplexity_wikitext2=101.0)
    ((kind, text),) = found([record(), far])
    assert kind == "Perplexity over 10 times dense"
    assert text == "wanda 0.9: perplexity wikitext2 101.0 is 10.1 times that of the dense model (10.00)"
    assert found([record(), record("wanda", 0.9, perplexity_wikitext2=100.0)]) == []


def test_a_dense_model_of_another_protocol_is_no_measure(found):
    other = record("wanda", 0.9, perplexity_wikitext2=1000.0, protocol="wikitext2:test:ctx=2048")
    assert [kind for kind, _ in found([record(), other])] == ["Mixed protocols"]


def test_what_overflowed_and_a_loss_that_rose_are_divergences(found):
    broken = record("wanda", 0.9, perplexity_wikitext2=None)
    broken["reasons"] = {"perplexity_wikitext2": "not finite: inf"}
    trained = record("lora")
    trained["stages"][0]["notes"] = {"training": {"loss_start": 2.0, "loss_end": 3.5}}
    lost = record("finetune")
    lost["stages"][0]["notes"] = {"training": {"loss_start": 2.0, "loss_end": None}}
    texts = [text for kind, text in found([broken, trained, lost]) if kind == "Divergences"]
    assert texts == [
        "wanda 0.9: perplexity wikitext2 has no value: not finite: inf",
        "lora: the loss of lora rose from 2 to 3.5",
        "finetune: the loss of finetune is not finite at its end",
    ]


@pytest.mark.parametrize(
    "reason",
    [
        "not measured by this evaluation",
        "depends on data or weights, and only shapes were loaded (model.weights=meta)",
        "one question has no standard error",
    ],
)
def test_a_value_that_was_not_measured_is_no_divergence(found, reason):
    lacking = record("wanda", 0.1, accuracy_sentiment=None)
    lacking["reasons"] = {"accuracy_sentiment": reason}
    assert found([lacking]) == []


@pytest.mark.parametrize("nll", [math.nan, 1000.0])
def test_reasons_of_perplexities_that_are_no_number_are_divergences(found, nll):
    broken = record("wanda", 0.9, perplexity_wikitext2=None)
    broken["reasons"] = {"perplexity_wikitext2": non_finite_reason(nll)}
    assert [kind for kind, _ in found([broken])] == ["Divergences"]


def test_a_ratio_that_was_not_reached_is_named(found):
    missed = record("wanda", 0.5)
    missed["stages"][0] |= {"zeros": 40, "sparsity": 0.4}
    assert found([missed]) == [
        ("Achieved is not what was requested", "wanda 0.5: wanda: ratio 0.5 requested, 0.4 achieved")
    ]
    missed["stages"][0] |= {"zeros": 499, "sparsity": 0.499}
    assert found([missed]) == []
    left = record("wanda", 0.5, fields={"relative_to": "remaining"})
    left["stages"][0] |= {"zeros": 75, "sparsity": 0.75}
    assert found([left]) == []


def test_removed_parts_count_as_parts(found):
    made = reduced(0.25)
    made["stages"][0]["notes"]["details"] = [{"kind": "heads", "before": 4, "removed": 1}] * 2
    assert found([made]) == []
    made["stages"][0]["notes"]["details"] = [{"kind": "heads", "before": 4, "removed": 0}]
    assert "ratio 0.25 requested, 0 achieved" in found([made])[0][1]


def test_bits_of_scales_are_named_where_they_are_many(found):
    assert found([chain("rtn", bits=4.3, fields={"rtn": {"bits": 4}})]) == []
    ((_, text),) = found([chain("rtn", bits=3.5, fields={"rtn": {"bits": 3}})])
    assert "bits per weight 3 requested, 3.5 achieved" in text
