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


def test_values_by_several_protocols_are_a_line_each_and_never_averaged():
    protocols = [f"wikitext2:test:ctx=512:windows={count}:sha=1" for count in (16, 166)]
    records = [
        record(weights="trained", protocol=protocol, perplexity_wikitext2=value)
        for protocol, value in zip(protocols, (10.0, 20.0), strict=True)
    ]
    found = literature.compare([published(10.0, note="of old")], records)
    assert [(one.ours, one.count, one.distinction, one.verdict) for one in found] == [
        (10.0, 1, "windows=16", "agrees"),
        (20.0, 1, "windows=166", "DEVIATES"),
    ]
    assert [row["our_protocol"] for row in literature.rows(found)] == protocols
    table = literature.table(found)
    assert "(ours: windows=166)" in " ".join(table.rows[1]) and table.notes.count("[1] of old") == 1
    whole = published(10.0, protocol=("test", "ctx=512", "windows=166"))
    assert [one.ours for one in literature.compare([whole], records)] == [20.0]


def test_a_protocol_may_be_that_of_one_field(tmp_path):
    group = {"source": "a paper", "status": "read", "tolerance": 0, "protocol": ["ctx=2048"]}
    group["rows"] = [{"where": DENSE, "values": {"perplexity_wikitext2": 5, "perplexity_c4": 7}}]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump([group | {"protocols": {"perplexity_c4": ["windows=256"]}}]))
    assert {one.field: one.protocol for one in literature.read(tmp_path / "values.yaml")} == {
        "perplexity_wikitext2": ("ctx=2048",),
        "perplexity_c4": ("ctx=2048", "windows=256"),
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump([group | {"protocols": {"bleu": "test"}}]))
    with pytest.raises(StoreError, match="name bleu, of which no row has a value.*no list of parts: 'test'"):
        literature.read(tmp_path / "values.yaml")


def test_qualities_of_the_project_say_how_much_of_a_set_was_measured():
    """A split, and the number of windows or items, or that windows are not limited."""
    for one in literature.read():
        if one.status == "computed":
            continue
        names = {part.partition("=")[0] for part in one.protocol}
        if one.field.startswith("perplexity_"):
            assert "windows" in names or ("evaluation.max_windows", None) in one.where.items(), one
        elif one.field.startswith(("classification", "rouge", "bleu")):
            assert "split" in names and names & {"rows", "items"}, one


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
