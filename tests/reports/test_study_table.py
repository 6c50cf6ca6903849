import pytest
from conftest import PROJECT
from made_up import record

from slimsweep.errors import StoreError
from slimsweep.records.table import layout
from slimsweep.reports import study_table
from slimsweep.reports.study_table import Study

ROWS = (
    ("baseline", {"technique": "dense"}),
    ("pruned", {"technique": "wanda", "ratio": 0.5}),
    ("lost", {"technique": "x"}),
)


def cells(table):
    return [dict(zip(table.headings, row, strict=True)) for row in table.rows]


def test_rows_have_the_names_of_the_study_and_its_columns():
    study = Study(title="Ours", differs=("another model",), columns=("parameters", "accuracy_*"), rows=ROWS)
    table = study_table.table(study, [record("magnitude", 0.5), record("wanda", 0.5), record()])
    assert table.headings == ["", "parameters M", "accuracy sentiment"]
    assert [row[""] for row in cells(table)] == ["baseline", "pruned", "lost", "magnitude 0.5"]
    assert cells(table)[2]["accuracy sentiment"] == "-" and "not run: lost" in table.notes
    text = layout(table, "md")
    assert text.startswith("**Ours**") and "- another model\n- Measured here: tiny, float32, cpu.\n" in text


def test_seeds_of_one_row_stand_below_each_other():
    table = study_table.table(Study(rows=ROWS[1:2]), [record("wanda", 0.5, seed) for seed in (0, 1)])
    assert [(row[""], row["seed"]) for row in cells(table)] == [("pruned", "0"), ("pruned", "1")]


def test_a_record_without_a_seed_has_an_empty_one():
    table = study_table.table(Study(rows=ROWS), [record(), *(record("wanda", 0.5, seed) for seed in (0, 1))])
    assert [row["seed"] for row in cells(table)] == ["-", "0", "1", "-"]  # dense, two seeds, the row without a record


def test_the_last_column_is_what_is_kept_of_the_base():
    values = {"accuracy_piqa": 0.5, "accuracy_boolq": 0.7}
    base = record(accuracy_sentiment=None, **values)
    pruned = record("wanda", 0.5, accuracy_sentiment=None, accuracy_piqa=0.4, accuracy_boolq=0.5)
    for one in (base, pruned):
        one["base_key"] = base["key"]
    table = study_table.table(Study(kept="accuracy_*", rows=ROWS[:2]), [base, pruned])
    assert [row["kept"] for row in cells(table)] == ["1.000", "0.750"]
    assert study_table.mean_relative_to_base(pruned, "accuracy_*", [pruned]) is None


def test_the_section_of_a_sweeps_file_is_read_for_sweeps_named_after_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("sweep: mine\ntable: {title: Ours, rows: [{name: a, where: {ratio: 0.5}}]}\n")
    (tmp_path / "plain.yaml").write_text("sweep: plain\n")
    assert study_table.of_sweep("mine_small", tmp_path) == Study(title="Ours", rows=(("a", {"ratio": 0.5}),))
    assert study_table.of_sweep("plain", tmp_path) is None and study_table.of_sweep("other", tmp_path) is None


def test_a_misspelt_section_is_told_with_its_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("table: {titel: Ours, rows: [{name: a}], differs: no list}\n")
    with pytest.raises(
        StoreError, match=r"mine\.yaml, section table: unknown word 'titel'; give .*differs is no list.*a row is"
    ):
        study_table.of_sweep("mine", tmp_path)


@pytest.mark.parametrize("file", sorted((PROJECT / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_section_of_every_sweep_is_whole(file):
    study = study_table.of_sweep(file.stem)
    assert study is None or study.differs, "a study says what differs from its publication"
