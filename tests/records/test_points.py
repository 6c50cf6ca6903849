from made_up import record

from slimsweep.records.points import label, over_seed, seed_groups, titles


def test_seeds_become_mean_and_sample_deviation():
    rows = over_seed(
        [record("wanda", 0.5, seed, perplexity_wikitext2=value) for seed, value in enumerate((10.0, 14.0))]
    )
    assert len(rows) == 1
    assert rows[0]["perplexity_wikitext2"] == 12.0
    assert abs(rows[0]["perplexity_wikitext2_deviation"] - 8**0.5) < 1e-12
    assert rows[0]["n"] == 2 and rows[0]["seeds"] == [0, 1]
    assert "key" not in rows[0] and rows[0]["ratio"] == 0.5


def test_a_single_seed_has_no_deviation():
    (row,) = over_seed([record("magnitude", 0.5)])
    assert row["n"] == 1 and row["perplexity_wikitext2_deviation"] is None


def test_other_knobs_ratios_and_protocols_are_never_averaged():
    records = [
        record("wanda", 0.5, 0),
        record("wanda", 0.6, 1),
        record("wanda", 0.5, 1, fields={"inputs": "dense"}),
        record("wanda", 0.5, 2, protocol="wikitext2:test:ctx=2048"),
        record("wanda", 0.5, 3, pattern="2:4"),
        record("wanda", 0.5, 4, dtype="bfloat16"),
        record("wanda", 0.5, 5, config={"calibration": {"corpus": "c4"}}),
    ]
    assert [row["n"] for row in over_seed(records)] == [1] * 7


def test_calibration_does_not_part_records_without_chance():
    records = [record("magnitude", 0.5, config={"calibration": {"corpus": name}}) for name in ("c4", "reviews")]
    assert [row["n"] for row in over_seed(records)] == [2]


def test_a_value_missing_for_one_seed_is_left_out_of_the_row():
    (row,) = over_seed([record("wanda", 0.9, 0), record("wanda", 0.9, 1, perplexity_wikitext2=None)])
    assert "perplexity_wikitext2" not in row and row["n"] == 2


def test_a_metric_of_one_seed_alone_hides_no_quantity_of_both():
    shared = {"perplexity_w": {"group": "quality"}}
    first = record("wanda", 0.5, 0, quantities=shared, identities={"perplexity_w": "a"})
    second = record("wanda", 0.5, 1, quantities=shared | {"more": {}}, identities={"perplexity_w": "a", "more": "b"})
    for seeds in ([first, second], [second, first]):
        (row,) = over_seed(seeds)
        assert row["quantities"] == shared | {"more": {}}
        assert row["identities"] == {"perplexity_w": "a", "more": "b"}


def test_seeds_of_an_older_version_declare_nothing_together():
    (row,) = over_seed([record("wanda", 0.5, seed, quantities=None) for seed in (0, 1)])
    assert row["quantities"] is None


def test_label_names_the_point():
    assert label(record("wanda", 0.5, 1, pattern="2:4")) == "wanda 0.5 2:4 seed 1"
    assert label(record()) == "dense"


def test_titles_tell_records_of_one_technique_apart():
    records = [record("rtn", fields={"bits": 4}), record("rtn", fields={"bits": 3}), record("wanda", 0.5, 1)]
    assert list(titles(records).values()) == ["rtn, bits 4", "rtn, bits 3", "wanda 0.5 seed 1"]
    two = titles([record("wanda", 0.5), record("wanda", 0.5, model="large")])
    assert list(two.values()) == ["tiny, wanda 0.5", "large, wanda 0.5"]


def test_groups_of_seeds_keep_the_records():
    records = [record("wanda", 0.5, 0), record("wanda", 0.7, 0), record("wanda", 0.5, 1)]
    assert seed_groups(records) == [[records[0], records[2]], [records[1]]]
