"""Log handler of the command line: one line per event on standard output.

Lines of other libraries are shown only with `-v`, or if they are errors. With a live display, log lines become its
steps, and warnings are printed above it.
"""

import logging
import os
import sys

from slimsweep.progress import watcher

VERBOSE = "SLIMSWEEP_VERBOSE"
"""Environment variable that `-v` sets, so that jobs in other processes inherit it."""
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
}
"""Environment variables that silence other libraries; a value that the user has set is kept."""
OWN = ("slimsweep", "hydra_plugins.slimsweep")


def is_verbose() -> bool:
    """Whether `-v` was given."""
    return bool(os.environ.get(VERBOSE))


def quiet_other_libraries() -> None:
    """Switch off progress bars and remarks of other libraries. Call it before they are imported."""
    if not is_verbose():
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)


def prepare_for_models() -> None:
    """Set the environment for a command of `slim` that runs models. Call it before torch is imported."""
    # OpenMP threads that spin while they wait slow down the other model.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_other_libraries()


class Console(logging.Handler):
    """Writes log lines to standard output. A traceback is shown with -v only: the job's own log has it."""

    live = None
    """Rich console of the live display, which prints above itself; None where there is no display."""

    def __init__(self, level: int = logging.NOTSET):
        super().__init__(level)
        self._stream = sys.stdout  # bound now, so that a later redirection of stdout gets no log lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except Exception:  # a closed pipe, say: logging reports it and goes on
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        is_own = record.name.startswith(OWN)
        if not (is_own or is_verbose() or record.levelno >= logging.ERROR):
            return
        if self.live is not None and is_own and (record.levelno <= logging.INFO or record.exc_info):
            watcher().step(record.getMessage())  # an error with a traceback is a failed job, which the display lists
            return
        text = self.format(record) if is_verbose() else self._line(record)
        if self.live is not None:
            self.live.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def _line(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        shown = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None})
        return self.format(shown)
