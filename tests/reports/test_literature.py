import pytest
import yaml
from made_up import record

from slimsweep.errors import StoreError
from slimsweep.reports import literature
from slimsweep.reports.literature import Published

DENSE = {"model": "tiny", "technique": "dense"}


def published(value, **fields):
    given = {"source": "a paper", "status": "read", "tolerance": 0.05, "where": DENSE, "protocol": ("ctx=512",)}
    return Published(field="perplexity_wikitext2", value=value, **(given | fields))


def verdicts(*values, records):
    return [one.verdict for one in literature.compare(values, records)]


def test_ours_agrees_within_the_tolerance_and_deviates_beyond_it():
    records = [record(weights="trained")]  # perplexity 10
    assert verdicts(published(10.4), published(9.0), records=records) == ["agrees", "DEVIATES"]
    (one,) = literature.compare([published(8.0)], records)
    assert one.deviation == 0.25 and one.ours == 10.0


def test_a_recalled_value_gates_nothing():
    assert verdicts(published(1.0, status="recalled"), records=[record(weights="trained")]) == ["recalled, no gate"]


def test_a_value_by_another_protocol_is_no_value():
    records = [record(weights="trained", protocol="wikitext2:test:ctx=2048")]
    assert verdicts(published(10.0), records=records) == ["not run by this protocol"]
    assert verdicts(published(10.0), records=[]) == ["not run"]
    assert verdicts(published(10.0), records=[record()]) == ["not run"]  # random weights, which nothing trained


def test_seeds_are_averaged():
    records = [record("wanda", 0.5, seed, weights="trained", perplexity_wikitext2=9.0 + 2 * seed) for seed in (0, 1)]
    (one,) = literature.compare([published(10.0, where={"technique": "wanda"})], records)
    assert one.ours == 10.0 and one.count == 2 and one.deviation == 0


def test_rows_without_ours_stay_in_the_table_and_sources_below_it():
    found = literature.compare(
        [published(10.0), published(7.0, where={"technique": "wanda"})], [record(weights="trained")]
    )
    table = literature.table(found)
    assert [dict(zip(table.headings, row, strict=True))["verdict"] for row in table.rows] == ["agrees", "not run"]
    assert dict(zip(table.headings, table.rows[1], strict=True))["ours"] == "-"
    assert table.footnotes == ["[1] a paper"]
    assert table.notes[0] == "1 agrees, 0 DEVIATES, 0 recalled, no gate, 1 not run"


def test_every_fault_of_the_file_is_told_at_once(tmp_path):
    group = {"source": "a paper", "status": "remembered", "rows": [{"where": {}, "values": {"gmacs": "x"}}], "year": 1}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump([group]))
    with pytest.raises(StoreError) as error:
        literature.read(tmp_path / "values.yaml")
    for fault in ("has no tolerance", "unknown word 'year'", "read, computed or recalled", "gmacs='x'", "has no where"):
        assert fault in str(error.value)


def test_the_values_of_the_project_are_whole_and_have_all_three_statuses():
    values = literature.read()
    assert {one.status for one in values} == set(literature.STATUSES)
    by_block = {
        one.where["ratio"]: one.value
        for one in values
        if one.where.get("llm_pruner.level") == "block" and one.field == "parameters"
    }
    assert by_block[0.25] == 5_422_977_024
    recalled = [one for one in values if one.status == "recalled"]
    assert {one.field for one in recalled} & {"perplexity_wikitext2"}
