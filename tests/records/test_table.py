import csv
import io
import json

from made_up import PROTOCOL, record

from slimsweep.records.points import over_seed
from slimsweep.records.table import Table, layout, render, summary


def cells(records, row=0):
    table = summary(records)
    return dict(zip(table.headings, table.rows[row], strict=True))


def test_json_is_the_list_of_records_as_they_are():
    records = [record(), record("wanda", 0.5, 0)]
    assert json.loads(render(records, "json")) == records


def test_csv_has_every_field_and_nested_ones_as_json():
    records = [record(), record("wanda", 0.5, 0, bitmap_bytes=7)]
    rows = list(csv.DictReader(io.StringIO(render(records, "csv"))))
    assert set(rows[0]) == set(records[0]) | set(records[1])
    assert rows[1]["ratio"] == "0.5" and rows[1]["bitmap_bytes"] == "7" and rows[0]["ratio"] == ""
    assert json.loads(rows[1]["protocols"]) == records[1]["protocols"]


def test_markdown_columns_line_up_and_numbers_are_rounded():
    lines = render([record(), record("magnitude", 0.5)]).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[0].startswith("| key ") and set(lines[1]) <= set("|-: ")
    shown = cells([record(), record("magnitude", 0.5)], row=1)
    assert shown["ratio"] == "0.5" and shown["perplexity wikitext2"] == "35.00"
    assert shown["accuracy sentiment"] == "0.600 ± 0.030"


def test_what_all_rows_share_is_said_once():
    text = render([record(), record("magnitude", 0.5)])
    assert "every row: model tiny" in text and "weights MiB 2.0" in text
    assert "model" in summary([record(), record(model="other")]).headings


def test_one_protocol_is_named_below_the_table():
    assert f"perplexity_wikitext2: {PROTOCOL}" in summary([record()]).notes


def test_two_protocols_in_one_column_are_marked_and_named():
    other = "wikitext2:test:ctx=2048"
    records = [record(), record(protocol=other)]
    table = summary(records)
    assert cells(records, 0)["perplexity wikitext2"] == "10.00 [a]"
    assert cells(records, 1)["perplexity wikitext2"] == "10.00 [b]"
    assert f"perplexity_wikitext2 [b]: {other}" in table.notes
    assert any("2 protocols" in note and "must not be compared" in note for note in table.notes)


def test_a_null_result_keeps_its_reason():
    one = record("magnitude", 0.9, perplexity_wikitext2=None)
    one["reasons"]["perplexity_wikitext2"] = "perplexity overflowed: mean NLL 812.3"
    table = summary([one, record()])
    assert cells([one, record()])["perplexity wikitext2"] == "-"
    assert f"perplexity_wikitext2 of {one['key'][:8]}: perplexity overflowed: mean NLL 812.3" in table.notes


def test_over_seed_shows_mean_deviation_and_count():
    rows = over_seed([record("wanda", 0.5, s, perplexity_wikitext2=p) for s, p in ((0, 10.0), (1, 14.0))])
    shown = cells(rows)
    assert shown["n"] == "2" and shown["perplexity wikitext2"] == "12.00 ± 2.8"
    assert "±: sample standard deviation over n seeds" in summary(rows).notes


def test_latex_is_a_tabular_with_escaped_text():
    text = render([record("wanda", 0.5, model="my_model"), record(model="a&b")], "latex")
    assert r"my\_model" in text and r"a\&b" in text and r"$\pm$" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1
    assert text.splitlines()[0].startswith("% ") and text.endswith("\\end{tabular}")


def test_a_pipe_in_a_name_does_not_break_the_table():
    lines = render([record(model="a|b"), record()]).splitlines()
    assert lines[2].replace("\\|", "").count("|") == lines[0].count("|")


def test_no_records_give_valid_answers():
    assert render([], "json") == "[]" and render([]) == "no records" and render([], "csv") == ""


def test_a_quantity_that_no_metric_here_declares_has_a_column_in_its_own_format():
    declared = {
        "toy_x": {"field": "toy_x", "label": "toy", "group": "quality", "format": ".1f", "error": "toy_error"},
        "toy_bytes": {"field": "toy_bytes", "label": "b", "group": "cost", "heading": "toy KiB", "divisor": 1024},
    }
    records = [record(toy_x=1.25, toy_error=0.5, toy_bytes=2048, quantities=declared, identities={})]
    assert cells(records)["toy x"] == "1.2 ± 0.5" and cells(records)["toy KiB"] == "2.00"


def test_a_table_for_an_issue_folds_its_notes_away_and_pads_nothing():
    lines = render([record(), record("wanda", 0.5)], "github").splitlines()
    assert lines[0].startswith("| key | technique | ratio |") and lines[1].startswith("| --- | --- | --: |")
    start = lines.index("<details><summary>How it was measured</summary>")
    assert (
        lines[start - 1] == "" and lines[-1] == "</details>" and f"- perplexity_wikitext2: {PROTOCOL}" in lines[start:]
    )


def test_footnotes_are_printed_below_a_table_in_latex_too():
    table = Table(title="Ours", footnotes=["a 2:4 & b"], notes=["aside"])
    table.add("x", ["1"])
    assert layout(table, "md").splitlines() == [
        "**Ours**",
        "",
        "|   x |",
        "| --: |",
        "|   1 |",
        "",
        "- a 2:4 & b",
        "- aside",
    ]
    assert layout(table, "latex").splitlines()[-3:] == [
        "\\bottomrule",
        "\\multicolumn{1}{p{\\linewidth}}{\\footnotesize a 2:4 \\& b} \\\\",
        "\\end{tabular}",
    ]
    assert layout(table, "latex").splitlines()[:2] == ["% Ours", "% aside"]
