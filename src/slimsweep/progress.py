"""Progress of long work: the work tells it here, and a display that watches shows it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")


class Watcher:
    """Receiver of progress. This one ignores it; a display overrides what it shows."""

    def sweep_started(self, name: str, labels: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
        """A sweep begins: the labels of its jobs, and the records that it has already."""

    def job_started(self, label: str) -> None:
        """A job begins."""

    def step(self, text: str) -> None:
        """A job's next step begins."""

    def part(self, title: str, done: int, total: int) -> None:
        """So many parts of a loop are done."""

    def job_finished(self, label: str, record: dict[str, Any], seconds: float) -> None:
        """A job has its record. `seconds` is the time it took, 0 where the record was there."""

    def job_failed(self, label: str, reason: str) -> None:
        """A job failed."""


class _Current:
    watcher = Watcher()
    is_to_stop = False


def watcher() -> Watcher:
    """The watcher of this process.

    Raises:
        KeyboardInterrupt: the user asked to stop, and code that catches everything let the work go on.
    """
    if _Current.is_to_stop:
        stop(False)
        raise KeyboardInterrupt
    return _Current.watcher


def stop(is_asked: bool) -> None:
    """Ask the work to stop at its next event, or take that back."""
    _Current.is_to_stop = is_asked


@contextmanager
def watched_by(one: Watcher) -> Iterator[None]:
    """Tell progress to a watcher."""
    before = _Current.watcher
    _Current.watcher = one
    try:
        yield
    finally:
        _Current.watcher = before


def tracked(items: Sequence[Item], title: str) -> Iterator[tuple[int, Item]]:
    """Items with their index; the watcher is told of each one before it is worked on, and of the end."""
    for index, item in enumerate(items):
        watcher().part(title, index, len(items))
        yield index, item
    watcher().part(title, len(items), len(items))
