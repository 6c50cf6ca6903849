import pytest

from slimsweep import progress


def test_a_stop_that_a_library_swallowed_comes_at_the_next_event():
    progress.stop(True)
    with pytest.raises(KeyboardInterrupt):
        progress.watcher()
    progress.watcher()  # once


def test_tracked_tells_each_part_and_the_end():
    told = []

    class Told(progress.Watcher):
        def part(self, title, done, total):
            told.append((title, done, total))

    with progress.watched_by(Told()):
        assert list(progress.tracked("ab", "blocks")) == [(0, "a"), (1, "b")]
    assert told == [("blocks", 0, 2), ("blocks", 1, 2), ("blocks", 2, 2)]
