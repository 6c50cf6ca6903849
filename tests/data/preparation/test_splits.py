from small_datasets import small_dataset

from slimsweep.data.preparation.splits import input_digest, made_splits, overlaps, row_input, without_duplicates

ROWS = [{"text": f"text {number}"} for number in range(2000)]


def texts(rows):
    return {row["text"] for row in rows}


def test_the_input_of_a_conversation_is_its_first_question():
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    assert row_input(row, "conversations") == "u"


def test_conversations_that_begin_alike_share_a_split(tmp_path):
    rows = []
    for number in range(200):
        turns = [("system", f"s {number}"), ("user", f"u {number // 4}"), ("assistant", "a"), ("user", f"v {number}")]
        turns.append(("assistant", "b"))
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    dataset = small_dataset("conversations", tmp_path, {"train": rows}, made={"validation": 0.3})
    made = made_splits(rows, dataset)
    first = {name: {row["messages"][1]["content"] for row in part} for name, part in made.items()}
    assert made["validation"] and not first["train"] & first["validation"]


def test_a_duplicate_is_equal_in_all_columns_and_the_first_stays():
    rows = [{"text": "A b", "label": 1}, {"text": "a  B", "label": 1}, {"text": "a b", "label": 0}]
    assert without_duplicates(rows, ("text", "label")) == [rows[0], rows[2]]


def test_a_fraction_takes_about_so_many_and_ignores_the_order_of_the_rows(tmp_path):
    dataset = small_dataset("text", tmp_path, {"train": ROWS}, made={"validation": 0.1, "test": 0.2})
    made = made_splits(ROWS, dataset)
    assert 150 < len(made["validation"]) < 250 and 340 < len(made["test"]) < 460  # 4 deviations around 200 and 400
    assert texts(made["train"]) | texts(made["validation"]) | texts(made["test"]) == texts(ROWS)
    turned = made_splits(ROWS[::-1], dataset)
    assert {name: texts(rows) for name, rows in turned.items()} == {name: texts(rows) for name, rows in made.items()}
    fewer = made_splits(ROWS[:1000], dataset)
    assert texts(fewer["test"]) == texts(made["test"]) & texts(ROWS[:1000])  # more rows move none


def test_a_whole_number_takes_so_many_where_no_input_is_there_twice(tmp_path):
    dataset = small_dataset("text", tmp_path, {"train": ROWS}, made={"validation": 40, "test": 40})
    made = made_splits(ROWS[:400], dataset)
    assert {name: len(rows) for name, rows in made.items()} == {"train": 320, "validation": 40, "test": 40}


def test_rows_of_one_input_stay_together(tmp_path):
    pairs = [{"source": f"s {number // 2}", "target": str(number)} for number in range(200)]
    dataset = small_dataset("pairs", tmp_path, {"train": pairs}, made={"validation": 21, "test": 11})
    made = made_splits(pairs, dataset)
    inputs = {name: {input_digest(row, "pairs") for row in rows} for name, rows in made.items()}
    assert len(made["test"]) == 12 and len(made["validation"]) == 22
    assert not inputs["train"] & inputs["test"] and not inputs["train"] & inputs["validation"]
    assert not inputs["test"] & inputs["validation"]


def test_overlaps_are_found_in_the_split_that_gives_way():
    splits = {"train": [{"text": "A"}, {"text": "b"}], "validation": [{"text": "a "}], "test": [{"text": "a"}]}
    assert overlaps(splits, "text") == {
        ("validation", "test"): [0],
        ("train", "test"): [0],
        ("train", "validation"): [0],
    }
