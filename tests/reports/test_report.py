import pytest
from made_up import chain, curve, record, sweep, with_outcomes

from slimsweep.errors import StoreError
from slimsweep.records.store import Store, SweepJob
from slimsweep.reports.report import gather


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_report_has_a_row_a_job_and_a_point_for_each_record(store):
    records = sweep(store, "mine", [record(), *curve("wanda"), chain("rtn", bits=4.0)])
    report = gather(store, ["mine"], with_figures=False)
    assert report.title == "Sweep mine"
    assert report.sentences[:2] == ["5 records of 5 jobs.", "Model: tiny made up."]
    assert report.keys == [one["key"] for one in records] == [job.key for job in report.jobs]
    assert len(report.table.rows) == 5 and report.figures == {}
    assert sum(len(chart["points"]) for chart in report.charts) == 10  # perplexity and accuracy
    assert report.charts[0]["name"].startswith("perplexity wikitext2 · tiny")
    first = report.charts[0]["points"][1]["hover"].split("\n")
    assert first[0] == "wanda 0.1" and "perplexity wikitext2: 11.00" in first


def test_details_tell_values_with_errors_settings_and_reasons(store):
    made = record("wanda", 0.5, fields={"include": ["q", "k"], "inputs": None}, accuracy_sentiment=None)
    made["reasons"] = {"accuracy_sentiment": "not finite: nan"}
    sweep(store, "mine", [record(), made])
    dense, job = gather(store, ["mine"], with_figures=False).jobs
    assert ("accuracy sentiment", "0.700 ± 0.030") in dense.values
    assert ("requested ratio", "0.5") in job.values
    assert ("wanda.include", "q, k") in job.settings and ("wanda.inputs", "null") in job.settings
    assert ("accuracy sentiment", "not finite: nan") in job.nulls


def test_layers_missing_jobs_and_noise_are_in_the_report(store):
    first, second = record(accuracy_sentiment=0.75), record("rtn", accuracy_sentiment=0.5)
    for one, answers in ((first, [1, 1, 1, 0]), (second, [1, 1, 0, 0])):
        with_outcomes(store, one, "accuracy_sentiment", answers)
    layers = [{"stage": "rtn", "layers": [{"name": "model.layers.0.up", "weights": 4, "zeros": 0, "error": 0.1}]}]
    store.write(first, [])
    store.write(second, layers)
    jobs = [SweepJob(one["key"], one["technique"], []) for one in (first, second)]
    store.open_sweep("mine", [*jobs, SweepJob("f" * 64, "wanda 0.5", [])])
    report = gather(store, ["mine"], with_figures=False)
    assert [measure.words for measure in report.jobs[1].layers] == ["relative error of the stored weights"]
    kinds = report.grouped_cautions()
    assert list(kinds) == ["Missing jobs", "Differences that are noise"]
    assert kinds["Missing jobs"][0].text == "mine: wanda 0.5 is missing"
    assert kinds["Differences that are noise"][0].keys == (first["key"], second["key"])


def test_protocols_are_listed_with_their_quantities(store):
    sweep(store, "mine", [record(), record("wanda", 0.5, protocol="wikitext2:test:ctx=2048")])
    notes = gather(store, [], with_figures=False).protocols
    assert sorted((note.titles[0], note.records) for note in notes) == [
        ("accuracy sentiment", 2),
        ("perplexity wikitext2", 1),
        ("perplexity wikitext2", 1),
    ]


def test_figures_of_the_records_come_along(store):
    sweep(store, "unstructured", [record(), *curve("wanda")])
    figures = gather(store, ["unstructured"]).figures
    assert "ratio_curve_wikitext2" in figures and figures["ratio_curve_wikitext2"].startswith(b"\x89PNG")


def test_a_report_of_no_records_says_what_to_run(store):
    with pytest.raises(StoreError, match="holds no record, so there is nothing to report. Run: slimsweep"):
        gather(store, [])
    store.open_sweep("mine", [SweepJob("f" * 64, "wanda 0.5", [])])
    with pytest.raises(StoreError, match=r"no job of mine has a record \(1 missing\).*See: slim status mine"):
        gather(store, ["mine"])
    with pytest.raises(StoreError, match="no sweep 'other' was launched here"):
        gather(store, ["other"])


def test_a_report_names_no_folder_of_this_machine(store):
    made = record("wanda", 0.5, fields={"index": "/home/me/index.json"}, accuracy_sentiment=None)
    made["reasons"] = {"accuracy_sentiment": "no /home/me/answers.json: missing"}
    sweep(store, "mine", [record(), made | {"baseline": "/home/me/models/tiny"}])
    report = gather(store, ["mine"], with_figures=False)
    assert "/home/me" not in repr(report)
    assert ("wanda.index", "index.json") in report.jobs[1].settings
