import math

import pytest
from made_up import record

from slimsweep.evaluation.perplexity import non_finite_reason
from slimsweep.records.store import Store
from slimsweep.records.tracking.alerts import alerts_of, failure


def trained(*losses: float | None) -> dict:
    curve = [{"step": step, "validation_loss": loss} for step, loss in enumerate(losses)]
    return record("wanda", 0.5) | {"stages": [{"name": "lora", "notes": {"training": {"curve": curve}}}]}


def test_a_loss_that_rose_or_is_no_number_has_diverged(tmp_path):
    (alert,) = alerts_of(trained(2.0, 2.5, 3.1), tmp_path)
    assert alert.title == "loss diverged" and "stage lora rose from 2 to 3.1" in alert.text
    assert "is not a number" in alerts_of(trained(2.0, None), tmp_path)[0].text
    assert not alerts_of(trained(2.0, 2.9), tmp_path) and not alerts_of(trained(), tmp_path)


def test_a_perplexity_over_ten_times_the_dense_one_raises_an_alert(tmp_path):
    dense, pruned = record(), record("wanda", 0.9)
    pruned["base_key"] = dense["key"]
    name = "perplexity_wikitext2"
    assert not alerts_of(pruned | {name: 1e6}, tmp_path)  # no dense record to compare with
    Store(tmp_path).write(dense, [])
    (alert,) = alerts_of(pruned | {name: 10.1 * dense[name]}, tmp_path)
    assert alert.title == "perplexity over ten times dense" and name in alert.text
    assert not alerts_of(pruned | {name: 9.9 * dense[name]}, tmp_path)
    other = pruned | {name: 1e6, "protocols": {name: "another protocol"}}
    assert not alerts_of(other, tmp_path)


@pytest.mark.parametrize("nll", [800.0, math.nan])
def test_a_perplexity_that_overflowed_raises_an_alert_and_one_not_measured_none(tmp_path, nll):
    dense, name = record(), "perplexity_wikitext2"
    lost = record("wanda", 0.9) | {"base_key": dense["key"], name: None, "reasons": {name: non_finite_reason(nll)}}
    Store(tmp_path).write(dense, [])
    (alert,) = alerts_of(lost, tmp_path)
    assert alert.title == "perplexity over ten times dense" and lost["reasons"][name] in alert.text
    assert not alerts_of(lost | {"reasons": {name: "not measured by this evaluation"}}, tmp_path)


def test_the_alert_of_a_failed_job_names_no_folder():
    alert = failure("tiny wanda 0.5", "OSError: /home/somebody/model is gone")
    assert alert.is_error and alert.text == "tiny wanda 0.5: OSError: model is gone"
