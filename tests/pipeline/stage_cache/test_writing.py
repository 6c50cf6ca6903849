import pytest

from slimsweep.pipeline.stage_cache.writing import Writing, worth_keeping


def test_a_step_that_fails_leaves_nothing_and_says_so_once(tmp_path):
    told = []
    entry = Writing(told.append)
    entry.folder, entry.reserved = tmp_path / "entry", 7
    entry.folder.mkdir()
    with entry.step():
        raise OSError("no space left")
    assert [str(error) for error in told] == ["no space left"]
    assert entry.folder is None and entry.reserved == 0 and list(tmp_path.iterdir()) == []


def test_an_error_of_something_else_is_raised(tmp_path):
    with pytest.raises(ZeroDivisionError), Writing(pytest.fail).step():
        raise ZeroDivisionError


def test_what_is_dropped_says_why(tmp_path):
    entry = Writing(pytest.fail)
    entry.folder = tmp_path / "entry"
    entry.folder.mkdir()
    entry.drop("not kept: too small")
    entry.drop(entry.outcome)
    assert entry.outcome == "not kept: too small" and not (tmp_path / "entry").exists()


@pytest.mark.parametrize(("size", "seconds", "expected"), [(10**8, 1.0, True), (10**8, 0.99, False), (0, 0.0, True)])
def test_what_takes_longer_to_compute_than_to_read_is_worth_it(size, seconds, expected):
    assert worth_keeping(size, seconds) == expected
