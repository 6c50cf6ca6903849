"""Live display of a launch on a terminal: progress and ETA, the job at work, the last results, failures."""

import os
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from slimsweep.cli import console
from slimsweep.evaluation.quantity import Quantity
from slimsweep.progress import Watcher, watched_by
from slimsweep.records.quantities import in_group

SHOWN = 8
"""Results, and failures, that are shown at once; the last ones."""
DENSE = "dense"
IS_SHOWN = "SLIMSWEEP_IS_SHOWN"
"""Environment variable while a display is shown, so that processes of other launchers show none over it."""


class Display(Watcher):
    """State of a launch, drawn as one screen."""

    def __init__(self, clock: Any = time.monotonic):
        self._clock = clock
        self._began = self._job_began = clock()
        self._name, self._total = "", 0
        self._left: Counter[str] = Counter()
        self._label, self._step, self._part = "", "", ("", 0, 0)
        self._seconds: list[tuple[str, float]] = []
        self._failures: list[tuple[str, str]] = []
        self._records: deque[tuple[str, dict[str, Any], float]] = deque(maxlen=SHOWN)
        self._dense: dict[str, dict[str, Any]] = {}

    def sweep_started(self, name: str, labels: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
        self._name, self._total, self._left = name, len(labels), Counter(labels)
        for record in records:
            self._note_dense(record)

    def job_started(self, label: str) -> None:
        self._label, self._step, self._part, self._job_began = label, "", ("", 0, 0), self._clock()

    def step(self, text: str) -> None:
        self._step, self._part = text, ("", 0, 0)

    def part(self, title: str, done: int, total: int) -> None:
        self._part = (title, done, total)

    def job_finished(self, label: str, record: dict[str, Any], seconds: float) -> None:
        self._note_dense(record)
        self._left -= Counter([label])
        if seconds:
            self._seconds.append((label, seconds))
        self._records.append((label, record, seconds))
        self._label = ""

    def job_failed(self, label: str, reason: str) -> None:
        self._failures.append((label, reason))
        self._left -= Counter([label])
        self._label = ""

    def eta(self) -> float | None:
        """Seconds until the launch ends, by the jobs that it has recorded; None before the first.

        A job is expected to take what those of its technique took, or else all jobs, by their median.
        """
        if not self._seconds:
            return None
        every = statistics.median(seconds for _, seconds in self._seconds)
        total = 0.0
        for label, count in self._left.items():
            alike = [seconds for known, seconds in self._seconds if _kind(known) == _kind(label)]
            expected = statistics.median(alike) if alike else every
            spent = self._clock() - self._job_began if label == self._label else 0.0
            total += count * expected - min(spent, expected)
        return total

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._total:
            parts.append(self._header())
        if self._label:
            parts += self._job()
        if self._records:
            parts.append(self._results())
        parts += self._failed()
        return Group(*parts)

    def _header(self) -> Table:
        ended, total = self._total - self._left.total(), self._total
        left = self.eta()
        words = f"{ended} of {total} jobs, {_clock(self._clock() - self._began)}"
        words += f", about {_clock(left)} left" if left is not None and ended < total else ""
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(self._name, style="bold"), ProgressBar(total=max(total, 1), completed=ended, width=30), words)
        return grid

    def _job(self) -> list[Text]:
        title, done, total = self._part
        seconds = _clock(self._clock() - self._job_began)
        lines = [Text.assemble(("at work  ", "bold"), self._label, f"  {seconds}", overflow="ellipsis", no_wrap=True)]
        block = f"  {title} {done} of {total}" if total else ""
        if self._step or block:
            lines.append(Text(f"         {self._step}{block}", overflow="ellipsis", no_wrap=True))
        return lines

    def _results(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        qualities = in_group([record for _, record, _ in self._records], "quality")[:2]
        table.add_column("recorded", overflow="ellipsis", no_wrap=True)
        for one in qualities:
            table.add_column(one.title, justify="right", no_wrap=True)
            table.add_column("dense", justify="right", no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        for label, record, seconds in self._records:
            cells = [label]
            for one in qualities:
                dense = self._dense.get(record.get("model", ""), {})
                cells += [_text(record.get(one.field), one), _text(dense.get(one.field), one)]
            table.add_row(*cells, f"{seconds:.1f}")
        return table

    def _failed(self) -> list[Text]:
        if not self._failures:
            return []
        lines = [Text(f"failed ({len(self._failures)})", style="bold red")]
        return lines + [Text(f"  {label}: {reason}") for label, reason in self._failures[-SHOWN:]]

    def _note_dense(self, record: dict[str, Any]) -> None:
        if record.get("technique") == DENSE:
            self._dense[record.get("model", "")] = record


def _kind(label: str) -> str:
    """A job's label without its ratio and seed: jobs of one kind take about as long."""
    return " ".join(word for word in label.split() if not word.replace(".", "").isdigit() and "=" not in word)


def _text(value: Any, quantity: Quantity) -> str:
    return "-" if value is None else quantity.text(value)


def _clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def is_wanted() -> bool:
    """Whether somebody watches a terminal that can redraw, and did not ask for all lines."""
    is_shown = console.is_verbose() or os.environ.get(IS_SHOWN)
    return sys.stdout.isatty() and not Console().is_dumb_terminal and not is_shown


@contextmanager
def shown() -> Iterator[None]:
    """Show a live display while work goes on, where a terminal is watched; its last screen stays."""
    if not is_wanted() or console.Console.live is not None:
        yield
        return
    display = Display()
    terminal = Console()
    with Live(display, console=terminal, refresh_per_second=4, vertical_overflow="crop") as live, watched_by(display):
        console.Console.live = live.console
        os.environ[IS_SHOWN] = "1"
        try:
            yield
        finally:
            console.Console.live = None
            del os.environ[IS_SHOWN]
            live.refresh()
