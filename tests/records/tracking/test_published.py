from made_up import record

from slimsweep.records.tracking.published import (
    config_of,
    curves_over_ratio,
    point_of,
    scalar_table,
    summary_of,
    words,
)


def test_config_has_the_axes_as_words_and_the_settings_nested():
    config = config_of(record(config={"ratio": 0.5, "calibration": {"path": "/a/b.txt"}}))
    assert config["technique"] == "dense" and config["ratio"] is None
    assert config["settings"] == {"ratio": 0.5, "calibration": {"path": "b.txt"}}


def test_summary_keeps_names_and_values():
    one = record("wanda", 0.5, 0)
    assert summary_of(one) == {name: value for name, value in one.items() if name not in ("config", "quantities")}


def test_the_dense_model_stands_at_ratio_0():
    assert point_of(record())["ratio"] == 0.0 and point_of(record("wanda", 0.5))["ratio"] == 0.5
    assert "seed" not in point_of(record("wanda", 0.5, 3)) and "model" not in point_of(record())


def test_words_name_model_technique_and_level():
    assert words(record("wanda", 0.5, 1, pattern="2:4")) == ["tiny", "wanda", "ratio=0.5", "2:4", "seed=1"]


def test_curves_have_a_line_per_technique_sorted_by_ratio():
    records = [record("wanda", 0.9), record("wanda", 0.1), record("magnitude", 0.5), record()]
    lines = curves_over_ratio(records)["perplexity_wikitext2"]
    assert list(lines) == ["tiny magnitude", "tiny wanda"]
    assert [x for x, _ in lines["tiny wanda"]] == [0.1, 0.9]


def test_scalar_table_leaves_out_nested_fields():
    columns, rows = scalar_table([record(), record("wanda", 0.5)])
    assert "protocols" not in columns and "stages" not in columns and "perplexity_wikitext2" in columns
    assert rows[1][columns.index("ratio")] == 0.5 and rows[0][columns.index("ratio")] is None


def test_loss_curves_are_told_by_stage_and_without_what_is_missing():
    from slimsweep.records.tracking.published import training_curves

    curve = [{"step": 0, "loss": None, "validation_loss": 4.0}, {"step": 8, "loss": 3.5, "validation_loss": 3.0}]
    stages = [{"name": "wanda", "notes": {}}, {"name": "lora", "notes": {"training": {"curve": curve}}}]
    assert training_curves({"stages": stages}) == {
        "lora": [{"step": 0, "validation_loss": 4.0}, {"step": 8, "loss": 3.5, "validation_loss": 3.0}]
    }
    assert training_curves({"stages": None}) == {}
