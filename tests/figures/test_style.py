import pytest
from matplotlib.figure import Figure

from slimsweep.figures.style import (
    MARKERS,
    appearances,
    footnote,
    legend_columns,
    log_axis,
    log_ticks,
    paper_style,
    place_legend,
    plain_number,
    save,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (9.0, 2000.0, [10, 30, 100, 300, 1000]),
        (30.0, 1400.0, [50, 100, 200, 500, 1000]),
        (31.0, 33.0, [31, 31.5, 32, 32.5, 33]),
        (10.9, 11.7, [11, 11.2, 11.4, 11.6]),
        (10.4, 27.0, [12, 15, 20, 25]),
        (1.0, 9e15, [1, 1e3, 1e6, 1e9, 1e12, 1e15]),
    ],
)
def test_log_ticks_are_round_and_few(low, high, ticks):
    assert log_ticks(low, high) == ticks


def test_every_range_gets_at_least_two_ticks_and_no_crowd():
    for start in (0.5, 1.0, 3.3, 10.9, 470.0, 9.9e4):
        for factor in (1.02, 1.1, 1.5, 2.1, 2.3, 3.0, 5.0, 10.0, 40.0, 1e3, 1e6, 1e9):
            ticks = log_ticks(start, start * factor)
            assert 2 <= len(ticks) <= 7, (start, factor, ticks)
            assert all(start <= tick <= start * factor for tick in ticks)


def test_numbers_stay_plain_up_to_a_million():
    texts = [plain_number(value) for value in (0.5, 10.0, 12.5, 1000.0, 200000.0, 1e6, 3e9)]
    assert texts == ["0.5", "10", "12.5", "1,000", "200,000", "10⁶", "3·10⁹"]


def test_a_log_axis_shows_plain_numbers():
    axes = Figure().add_subplot()
    log_axis(axes, [10.0, 1000.0])
    shown = [axes.yaxis.get_major_formatter()(tick) for tick in axes.get_yticks()]
    assert shown == ["10", "20", "50", "100", "200", "500", "1,000"] and axes.get_yscale() == "log"


def test_a_log_axis_without_positive_values_stays_as_it_is():
    axes = Figure().add_subplot()
    for values in ([], [0.0]):
        log_axis(axes, values)
        assert axes.get_yscale() == "linear"


def test_a_range_of_hundreds_of_decades_has_ticks():
    assert log_ticks(10.0, 1e200) == [1e50, 1e100, 1e150, 1e200]


def test_a_legend_below_tells_what_only_another_axes_shows():
    figure = Figure(figsize=(3.4, 4.0))
    upper, lower = figure.subplots(2, 1)
    upper.plot([1], [1], label="both")
    upper.plot([1], [2], label="upper")
    (own,) = lower.plot([1], [1], label="both", color="red")
    place_legend(figure, lower, None, is_below=True)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["both", "upper"]
    assert legend.get_lines()[0].get_color() == own.get_color()


def test_techniques_differ_in_colour_and_marker_and_variants_in_marker():
    magnitude, wanda, pattern = appearances(["magnitude", "wanda", "wanda 2:4"])
    assert magnitude["color"] != wanda["color"] == pattern["color"]
    assert len({magnitude["marker"], wanda["marker"], pattern["marker"]}) == 3 <= len(MARKERS)


def test_a_legend_has_as_many_columns_as_its_labels_leave_room_for():
    assert legend_columns(["wanda", "wanda+nf4", "dense"], 2, width=3.4) == 2
    assert legend_columns(["llm_pruner+nf4, level block", "llm_pruner+nf4, level channel"], 2, width=3.4) == 1
    assert legend_columns(["llm_pruner+nf4, level block", "llm_pruner+nf4, level channel"], 3, width=7.0) == 3
    assert legend_columns(["wanda"] * 40, 4, width=7.0) == 4
    assert legend_columns([], 4, width=7.0) == 1


def test_files_are_equal_byte_for_byte(tmp_path):
    contents = []
    for attempt in ("one", "two"):
        with paper_style():
            figure = Figure(layout="constrained")
            figure.add_subplot().plot([1, 2], label="a_b$c")
            contents.append([path.read_bytes() for path in save(figure, tmp_path / attempt, "stem")])
    assert contents[0] == contents[1]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["stem.pdf", "stem.png"]


def test_a_users_settings_change_nothing_and_return(tmp_path):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30}):
        with paper_style():
            assert matplotlib.rcParams["font.size"] == 7.5
        assert matplotlib.rcParams["font.size"] == 30


def test_a_footnote_is_written_below_the_axes_and_the_legend_which_keep_their_size(tmp_path):
    from matplotlib.image import imread

    heights, images, legends = {}, {}, {}
    for stem, text in (("without", ""), ("with", "wikitext2:test:ctx=512:windows=16 " * 6)):
        with paper_style():
            figure = Figure(figsize=(3.4, 2.5), layout="constrained")
            axes = figure.subplots()
            axes.plot([0, 1], [0, 1], label="a line")
            legend = figure.legend(loc="outside lower center")
            footnote(figure, text)
            save(figure, tmp_path, stem)
            heights[stem] = axes.get_position().height * figure.get_figheight()
            legends[stem] = legend.get_window_extent().y0 / figure.dpi
        images[stem] = imread(tmp_path / f"{stem}.png")
    assert heights["with"] == pytest.approx(heights["without"], rel=0.01)
    added = (len(images["with"]) - len(images["without"])) / 300
    assert legends["with"] == pytest.approx(legends["without"] + added, abs=0.02) and added > 0.2
    below = images["with"][-int(300 * (added - 0.03)) :]
    assert (below[:, :, :3] < 0.9).any()  # the footnote, and nothing else reaches so far down
