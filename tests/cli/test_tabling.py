import json

from made_up import curve, record, sweep

from slimsweep.records.store import SweepJob


def test_table_json_is_a_list_of_records_and_nothing_else(store, slim):
    records = sweep(store, "mine", [record(), *curve("wanda")])
    store.open_sweep("mine", [*store.sweep_jobs("mine"), SweepJob("f" * 64, "missing", [])])
    result = slim("table", "mine", "--format", "json")
    assert json.loads(result.stdout) == records
    assert "1 jobs have no record yet" in result.stderr


def test_table_joins_sweeps_without_doubles(store, slim):
    sweep(store, "a", [record(), record("wanda", 0.5)])
    sweep(store, "b", [record(), record("wanda", 0.6)])
    assert len(json.loads(slim("table", "a", "b", "--format", "json").stdout)) == 3
    assert len(json.loads(slim("table", "--format", "json").stdout)) == 3


def test_table_over_seed_has_one_row_per_point(store, slim):
    sweep(store, "mine", [record("wanda", 0.5, seed, perplexity_wikitext2=10.0 + seed) for seed in (0, 1, 2)])
    (row,) = json.loads(slim("table", "mine", "--over", "seed", "--format", "json").stdout)
    assert row["n"] == 3 and row["perplexity_wikitext2"] == 11.0 and row["perplexity_wikitext2_deviation"] == 1.0
    assert "11.00 ± 1" in slim("table", "mine", "--over", "seed").stdout
    assert slim("table", "mine", "--over", "model").exit_code == 2


def test_literature_and_claims_are_printed_beside_the_records(store, slim):
    sweep(store, "counts", [record(model="llama_2_7b", weights="meta", parameters=6_738_415_616)])
    shown = slim("table", "--literature")
    row = next(line for line in shown.stdout.splitlines() if "6,738,415,616" in line)
    assert "agrees" in row and "llama_2_7b" in row
    claims = json.loads(slim("table", "counts", "--claims", "--format", "json").stdout)
    assert {"supported", "contradicted", "not run"} >= {one["verdict"] for one in claims}
    assert "\\toprule" in slim("table", "--claims", "--format", "latex").stdout
    both = slim("table", "--literature", "--claims", "--format", "json")
    assert both.exit_code == 2 and "one document" in both.output and not both.stdout.startswith("[")
    assert slim("table", "--literature", "--claims").exit_code == 0


def test_a_sweep_with_a_study_is_printed_in_its_rows_unless_plain(store, slim):
    sweep(store, "zero_shot", [record(weights="trained")])
    study, plain = slim("table", "zero_shot"), slim("table", "zero_shot", "--plain")
    assert "kept" in study.stdout and "kept" not in plain.stdout and plain.stdout.startswith("| key ")
