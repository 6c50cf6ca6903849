"""Log lines where there is no live display."""

import logging
import re

import pytest

from slimsweep.cli import console


@pytest.fixture
def line(capsys, monkeypatch):
    monkeypatch.delenv(console.VERBOSE, raising=False)

    def emitted(name: str, level: int, text: str, error=None) -> str:
        handler = console.Console()  # here, since it writes to the output of the moment
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        info = (type(error), error, None) if error else None
        handler.handle(logging.LogRecord(name, level, __file__, 1, text, (), info))
        return capsys.readouterr().out

    return emitted


def test_lines_are_ours_with_their_time_and_no_traceback(line, monkeypatch):
    assert re.fullmatch(r"\d\d:\d\d:\d\d wanda: compressing\n", line("slimsweep.x", logging.INFO, "wanda: compressing"))
    assert line("hydra.launcher", logging.INFO, "#16 : technique=wanda") == ""
    assert line("lm_eval", logging.WARNING, "pretrained is not a string") == ""
    assert line("torch", logging.ERROR, "cannot") != ""
    assert line("slimsweep.x", logging.ERROR, "failed", ValueError("deep")).count("\n") == 1
    monkeypatch.setenv(console.VERBOSE, "1")
    assert "#16" in line("hydra.launcher", logging.INFO, "#16 : technique=wanda")
    assert "ValueError: deep" in line("slimsweep.x", logging.ERROR, "failed", ValueError("deep"))
