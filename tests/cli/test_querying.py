"""`slim table --query` through the real command."""

import json

import pytest
from made_up import curve, record, sweep


def test_a_query_reads_the_records_of_a_sweep_in_every_format(store, slim):
    sweep(store, "mine", [record(), *curve("wanda")])
    sql = "SELECT technique, count(*) AS jobs FROM records GROUP BY technique ORDER BY technique"
    rows = json.loads(slim("table", "mine", "--query", sql, "--format", "json").stdout)
    assert rows == [{"technique": "dense", "jobs": 1}, {"technique": "wanda", "jobs": 3}]
    assert slim("table", "mine", "--query", sql, "--format", "csv").stdout == "technique,jobs\ndense,1\nwanda,3\n"
    assert "| wanda" in slim("table", "--query", sql).stdout
    refused = slim("table", "--query", "DROP TABLE records")
    assert refused.exit_code == 1 and "does more than read" in refused.stderr


@pytest.mark.parametrize("option", [["--against", "base"], ["--literature"], ["--claims"]])
def test_options_that_print_another_table_are_refused_beside_a_query(store, slim, option):
    sweep(store, "mine", [record()])
    refused = slim("table", "--query", "SELECT key FROM records", *option)
    assert refused.exit_code == 2 and option[0] in refused.stderr and "not both" in refused.stderr
