"""One model, one record; one measurement, one identity: through the command."""

import json
from pathlib import Path

from conftest import PROJECT
from small_jobs import SMALL, record_at

from slimsweep.records.store import Store


def measured(answer) -> list[str]:
    return [line.split()[1].rstrip(":") for line in answer.out.splitlines() if line.endswith(": measuring")]


def test_another_protocol_is_a_second_measurement_of_one_record(slimsweep, tmp_path):
    job = (*SMALL, "technique=magnitude")
    first = record_at(slimsweep(*job))
    again = slimsweep(*job, "evaluation.max_windows=1")
    second = record_at(again)
    assert measured(again) == ["perplexity"] and "only perplexity" in again.out
    assert second["key"] == first["key"] and second["weights_digest"] == first["weights_digest"]
    field = "perplexity_movie_reviews"
    assert second[field] != first[field] and second["identities"][field] != first["identities"][field]
    back = slimsweep(*job)
    assert measured(back) == [] and record_at(back)[field] == first[field]
    store = Store(tmp_path / "outputs")
    assert len(store.records()) == 1
    kept = {one["values"][field] for one in store.measured(first["key"]).values() if field in one["values"]}
    assert kept == {first[field], second[field]}


def test_one_more_corpus_measures_only_that(slimsweep, tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("Once upon a time there was a little dog who liked to run in the park. " * 40)
    first = record_at(slimsweep(*SMALL, "technique=magnitude"))
    more = f"evaluation.corpora=[movie_reviews,{{name: mine, path: {text}}}]"
    answer = slimsweep(*SMALL, "technique=magnitude", more)
    both = record_at(answer)
    assert measured(answer) == ["perplexity"] and both["perplexity_mine"] > 1
    assert both["perplexity_movie_reviews"] == first["perplexity_movie_reviews"]
    own = f"evaluation.corpora=[{{name: mine, path: {text}}}]"
    assert measured(slimsweep(*SMALL, "technique=magnitude", own)) == []


def test_two_protocols_of_one_sweep_stand_beside_each_other(slimsweep, tmp_path):
    answer = slimsweep("-m", *SMALL, "technique=magnitude", "evaluation.max_windows=1,2", "sweep=mine")
    assert answer.status == 0
    (record,) = Store(tmp_path / "outputs").sweep_records("mine")
    names = [name for name in record if name.startswith("perplexity_")]
    assert names == ["perplexity_movie_reviews[max_windows=1]", "perplexity_movie_reviews[max_windows=2]"]
    assert "perplexity movie_reviews[max_windows=1]" in answer.out


def test_speed_and_memory_are_taken_from_a_model_of_equal_shapes(slimsweep):
    dense = record_at(slimsweep(*SMALL, "technique=[]"))
    answer = slimsweep(*SMALL, "technique=magnitude")
    record = record_at(answer)
    assert "speed" not in measured(answer) and "memory" not in measured(answer)
    assert record["prefill_seconds"] == dense["prefill_seconds"]
    assert record["sources"]["prefill_seconds"] == record["sources"]["peak_memory_bytes"] == dense["key"]
    fresh = slimsweep(*SMALL, "technique=magnitude", "fresh=true")
    assert {"speed", "memory"} <= set(measured(fresh)) and record_at(fresh)["sources"] == {}
    smaller = slimsweep(*SMALL, "technique=glu", "ratio=0.25")
    assert "speed" in measured(smaller) and record_at(smaller)["speedup_prefill"] is not None


def test_a_finished_sweep_takes_more_seeds_and_metrics(slimsweep, tmp_path):
    sweep = ("-m", *SMALL, "technique=random", "sweep=mine")
    slimsweep(*sweep, "seed=0,1")
    answer = slimsweep(*sweep, "seed=2", "amend=true")
    assert answer.status == 0 and "mine: 3 jobs" not in answer.err
    store = Store(tmp_path / "outputs")
    assert [record["seed"] for record in store.sweep_records("mine")] == [0, 1, 2]
    metric = "+evaluation.metrics.more={_target_: slimsweep.evaluation.cost.Cost, tokens: 8}"
    again = slimsweep(*sweep, "seed=0", metric, "amend=true")
    assert measured(again) == ["more"]
    first, *others = store.sweep_records("mine")
    assert {"gmacs[tokens=8]", "gmacs[tokens=default]"} <= set(first) and "gmacs" in others[0] and len(others) == 2


def test_a_record_keeps_choices_and_no_import_paths(slimsweep):
    record = record_at(slimsweep(*SMALL, "technique=[wanda,magnitude]", "technique.wanda.ratio=0.2"))
    assert "_target_" not in json.dumps(record) and "slimsweep." not in json.dumps(record["config"])
    assert record["choices"]["model"] == "random" and record["choices"]["calibration"] == "quick"
    assert record["choices"]["technique"] == {"wanda": "wanda", "magnitude": "magnitude"}
    assert record["choices"]["metric"]["size"] == "size"
    assert "technique.wanda.ratio=0.2" in record["overrides"]
    assert not any(word.startswith(("outputs_dir", "tracker", "cache")) for word in record["overrides"])


def test_a_technique_that_raises_while_planning_costs_its_job(slimsweep, tmp_path):
    own = (f"--config-dir={PROJECT / 'tests' / 'conf'}",)
    answer = slimsweep(*own, "-m", *SMALL, "technique=[],[breaking_plan,magnitude]", "sweep=mine")
    assert answer.status == 1 and "stage breaking_plan: RuntimeError: no plan for this" in answer.err
    assert [job.state for job in Store(tmp_path / "outputs").status("mine")] == ["done"]


def test_the_check_and_a_job_on_shapes_plan_and_never_apply(slimsweep):
    own = (
        f"--config-dir={PROJECT / 'tests' / 'conf'}",
        "model=random",
        "tracker=none",
        "technique=[breaking,magnitude]",
    )
    checked = slimsweep(*own, "dry_run=true")
    assert checked.status == 0, checked.err
    record = record_at(slimsweep(*own, "model.weights=meta", "evaluation=cost", "ratio=0.5"))
    assert [stage["sparsity"] for stage in record["stages"]] == [0.5, 0.5]
    assert record["gmacs_nonzero"] < record["gmacs"]


def test_a_failure_names_stage_and_layer_once(slimsweep, tmp_path):
    own = (f"--config-dir={PROJECT / 'tests' / 'conf'}",)
    answer = slimsweep(*own, *SMALL, "technique=breaking_layer")
    assert answer.status == 1
    told = answer.err.strip().splitlines()[-1]
    assert told.count("stage breaking_layer") == 1 and told.count("model.layers.1.self_attn.q_proj") == 1
    assert Path(tmp_path / "outputs").is_dir()
