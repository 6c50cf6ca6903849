from made_up import chain, curve, record

from slimsweep.reports.charts import charts, costs


def test_values_of_two_protocols_are_two_charts():
    records = [record(), *curve("wanda"), record("wanda", 0.3, protocol="wikitext2:test:ctx=2048")]
    found = [one for one in charts(records, lambda one: one["key"]) if one["isLog"]]
    assert [len(one["points"]) for one in found] == [1, 4]
    assert found[0]["protocol"] != found[1]["protocol"]


def test_the_front_names_places_of_points():
    small = chain("rtn", bits=4.0, perplexity_wikitext2=11.0)
    worse = chain("gptq", bits=4.0, perplexity_wikitext2=12.0)
    chart = charts([record(), small, worse], lambda one: "text\nmore")[0]
    assert chart["better"] == "lower" and [point["line"] for point in chart["points"]] == ["dense", "rtn", "gptq"]
    assert chart["fronts"]["weight_bytes"] == [1, 0]
    assert chart["points"][1]["costs"]["weight_bytes"] == 0.5  # MiB, as in tables
    assert chart["points"][0]["isDense"] and chart["points"][1]["hover"] == "text\nmore"


def test_lines_join_the_means_over_seeds():
    records = [record("wanda", 0.5, seed, perplexity_wikitext2=10.0 + 2 * seed) for seed in (0, 1)]
    assert charts(records, str)[0]["means"] == {"wanda": [[0.5, 11.0]]}


def test_costs_that_are_equal_everywhere_are_no_axis():
    assert [one.field for one in costs(curve("wanda"))] == ["nonzero_parameters"]
    assert "weight_bytes" in [one.field for one in costs([record(), chain("rtn")])]


def test_a_quality_that_overflowed_is_no_point():
    broken = record("wanda", 0.9, perplexity_wikitext2=None)
    assert len(charts([record(), broken], str)[0]["points"]) == 1
