from small_datasets import small_dataset

from slimsweep.data.preparation.card import card_of, counts_table, markdown, table
from slimsweep.data.preparation.pipeline import run_steps
from slimsweep.data.preparation.sources import SourceRows


def card(tmp_path):
    rows = [{"text": "Good film. ", "label": 1}, {"text": "good film.", "label": 1}, {"text": "bad", "label": 0}]
    test = [{"text": "fine", "label": 1}]
    dataset = small_dataset("labelled", tmp_path, {"train": rows, "test": test})
    sources = {"train": SourceRows(rows, "FILE", "digest"), "test": SourceRows(test, "OTHER", "digest")}
    outcome = run_steps({"train": rows, "test": test}, dataset)
    return card_of(dataset, "key", sources, {"validation": "nowhere"}, outcome)


def test_counts_before_and_after_each_step(tmp_path):
    lines = [[cell.strip() for cell in line.split("|")[1:4]] for line in counts_table(card(tmp_path)).splitlines()]
    assert lines[0] == ["step", "train", "test"]
    assert ["read", "3", "1"] in lines and ["whitespace", "3 (1 changed)", "1"] in lines
    assert ["duplicates", "2 (-1)", "1"] in lines


def test_a_card_has_features_and_the_balance_of_labels(tmp_path):
    one = card(tmp_path)
    assert one["splits"]["train"]["labels"] == {"negative": 1, "positive": 1}
    assert one["splits"]["train"]["features"]["words"] == {"mean": 1.5, "least": 1, "p50": 2, "p95": 2, "most": 2}
    text = markdown(one)
    assert "validation: not at hand. nowhere" in text and "3 rows of FILE" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["train", "1 (50.0%)", "1 (50.0%)"] in cells and "    text: Good film." in text


def test_a_table_is_aligned():
    assert table([["a", "b"], ["long", "1"]]) == "| a    |   b |\n|------|----:|\n| long |   1 |"
