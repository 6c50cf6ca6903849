import pytest
from made_up import record

from slimsweep.figures.style import paper_style
from slimsweep.figures.zero_shot_heatmap import draw, grid_of

TASKS = {"accuracy_sentiment": 0.8, "accuracy_piqa": 0.6}


def test_a_row_keeps_a_share_of_the_dense_model():
    grid = grid_of([record(**TASKS), record("wanda", 0.5, accuracy_sentiment=0.4, accuracy_piqa=0.6)])
    assert grid.labels == ["dense", "wanda 0.5"]
    assert [task.name for task in grid.tasks] == ["piqa", "sentiment"]
    assert grid.kept[0] == [1, 1, 1]
    assert grid.kept[1] == pytest.approx([1.0, 0.5, 1.0 / 1.4])


def test_seeds_are_averaged_and_another_protocol_is_left_out():
    seeds = [record("wanda", 0.5, seed, accuracy_sentiment=0.4 + 0.2 * seed, accuracy_piqa=0.5) for seed in (0, 1)]
    other = record("magnitude", 0.5, **TASKS)
    other["protocols"] = other["protocols"] | {"accuracy_sentiment": "sentiment:v1:limit=20"}
    grid = grid_of([record(**TASKS), *seeds, other])
    rows = dict(zip(grid.labels, grid.values, strict=True))
    assert rows["wanda 0.5"] == [0.5, pytest.approx(0.5)] and rows["magnitude 0.5"] == [0.6, None]
    assert dict(zip(grid.labels, grid.kept, strict=True))["magnitude 0.5"][2] == 1.0  # over the task that both have


def test_cells_show_accuracies_and_the_last_what_is_kept():
    with paper_style():
        figure = draw([record(**TASKS), record("wanda", 0.5, accuracy_sentiment=0.4, accuracy_piqa=0.6)])
    texts = [text.get_text() for text in figure["zero_shot_heatmap"].axes[0].texts]
    assert texts == ["0.600", "0.800", "1.000", "0.600", "0.400", "0.714"]


def test_one_task_or_no_dense_model_is_no_heatmap():
    assert draw([record(), record("wanda", 0.5)]) == {}
    assert draw([record("wanda", 0.5, **TASKS)]) == {}
    assert draw([record(**TASKS)]) == {}


def test_colours_end_at_nothing_and_at_twice_the_dense_model():
    with paper_style():
        figure = draw([record(**TASKS), record("wanda", 0.5, accuracy_sentiment=0.8, accuracy_piqa=2.4)])
    image, bar = figure["zero_shot_heatmap"].axes[0].images[0], figure["zero_shot_heatmap"].axes[1]
    assert image.get_clim() == (0, 2) and bar.get_ylim() == (0, 2)


def test_a_cell_of_nothing_is_dark_and_its_text_white():
    with paper_style():
        figure = draw([record(**TASKS), record("wanda", 0.5, accuracy_sentiment=0.0, accuracy_piqa=0.6)])
    colours = {text.get_text(): text.get_color() for text in figure["zero_shot_heatmap"].axes[0].texts}
    assert colours["0.000"] == "white" and colours["0.600"] == "black"
