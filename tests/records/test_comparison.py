from made_up import record

from slimsweep.records.comparison import comparison, pairs


def test_sweeps_join_at_equal_points_only():
    a = [record("wanda", 0.5, 0), record("wanda", 0.6, 0)]
    b = [record("wanda", 0.5, 0, perplexity_wikitext2=70.0), record("wanda", 0.5, 1)]
    rows, only_a, only_b = pairs(a, b)
    assert [(row["ratio"], row["seed"]) for row in rows] == [(0.5, 0)]
    assert (rows[0]["perplexity_wikitext2_a"], rows[0]["perplexity_wikitext2_b"]) == (35.0, 70.0)
    assert rows[0]["perplexity_wikitext2_change"] == 35.0
    assert (rows[0]["key_a"], rows[0]["key_b"]) == (a[0]["key"], b[0]["key"])
    assert only_a == [a[1]] and only_b == [b[1]]


def test_patterns_and_models_are_different_points():
    assert pairs([record("wanda", 0.5)], [record("wanda", 0.5, pattern="2:4")])[0] == []
    assert pairs([record("wanda", 0.5)], [record("wanda", 0.5, model="other")])[0] == []


def test_a_null_on_one_side_has_no_change():
    rows, _, _ = pairs([record("wanda", 0.5)], [record("wanda", 0.5, perplexity_wikitext2=None)])
    assert rows[0]["perplexity_wikitext2_b"] is None and rows[0]["perplexity_wikitext2_change"] is None
    table = comparison(rows, ("one", "two"))
    assert table.rows[0][table.headings.index("perplexity wikitext2 A") :][:3] == ("35.00", "-", "-")


def test_the_table_shows_both_and_the_change():
    rows, _, _ = pairs([record("wanda", 0.5)], [record("wanda", 0.5, perplexity_wikitext2=70.0)])
    table = comparison(rows, ("one", "two"))
    cells = dict(zip(table.headings, table.rows[0], strict=True))
    assert cells["perplexity wikitext2 A"] == "35.00" and cells["perplexity wikitext2 B"] == "70.00"
    assert table.rows[0][table.headings.index("perplexity wikitext2 B") + 1] == "+100.0 %"
    assert "A: one" in table.notes and "B: two" in table.notes


def test_different_protocols_are_called_incomparable():
    rows, _, _ = pairs([record("wanda", 0.5)], [record("wanda", 0.5, protocol="wikitext2:test:ctx=2048")])
    assert any("must not be compared" in note and "ctx=2048" in note for note in comparison(rows, ("a", "b")).notes)
