"""The live display, the log lines where there is none, and Ctrl-C."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from conftest import CACHE
from rich.console import Console as Terminal
from small_jobs import SMALL

from slimsweep.cli.live import Display
from slimsweep.evaluation.quantity import Quantity, as_plain

QUALITY = Quantity(field="perplexity_a", label="perplexity", group="quality", heading="perplexity a", format=".2f")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def record(technique: str, value: float) -> dict:
    return {"model": "m", "technique": technique, "perplexity_a": value, "quantities": as_plain([QUALITY])}


def screen(display: Display, width: int = 100) -> str:
    terminal = Terminal(file=io.StringIO(), width=width, height=30, force_terminal=False)
    terminal.print(display)
    return terminal.file.getvalue()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_screen_shows_progress_the_job_at_work_results_and_failures():
    clock = Clock()
    display = Display(clock)
    display.sweep_started("mine", ["m dense", "m wanda 0.3", "m wanda 0.5", "m gptq"], [])
    display.job_started("m dense")
    clock.now = 10.0
    display.job_finished("m dense", record("dense", 20.0), 10.0)
    display.job_started("m wanda 0.3")
    display.step("wanda: compressing")
    display.part("Wanda block", 12, 30)
    shown = screen(display)
    assert "1 of 4 jobs, 0 min 10 s, about 0 min 30 s left" in shown
    assert "m wanda 0.3" in shown and "wanda: compressing" in shown and "12 of 30" in shown
    clock.now = 34.0
    display.job_finished("m wanda 0.3", record("wanda", 31.5), 24.0)
    display.job_started("m wanda 0.5")
    display.job_failed("m wanda 0.5", "ModelError: inputs are not finite")
    shown = screen(display)
    assert re.search(r"m wanda 0\.3 +31\.50 +20\.00 +24\.0", shown)
    assert "failed (1)" in shown and "m wanda 0.5: ModelError: inputs are not finite" in shown
    assert max(map(len, shown.splitlines())) <= 100
    narrow = screen(display, width=40)
    assert max(map(len, narrow.splitlines())) <= 40
    assert "inputs are not finite" in " ".join(narrow.split())  # the reason is wrapped, not cut


def test_a_job_is_expected_to_take_what_its_technique_took():
    clock = Clock()
    display = Display(clock)
    display.sweep_started("mine", ["m wanda 0.3", "m gptq", "m wanda 0.5 seed=0"], [])
    assert display.eta() is None
    for label, seconds in (("m wanda 0.3", 5.0), ("m gptq", 100.0)):
        display.job_started(label)
        display.job_finished(label, record("x", 1.0), seconds)
    assert display.eta() == 5.0
    display.job_started("m wanda 0.5 seed=0")
    clock.now += 2.0
    assert display.eta() == 3.0


def test_jobs_that_share_a_label_are_counted_one_by_one():
    display = Display(Clock())
    display.sweep_started("mine", ["m wanda 0.5"] * 3, [])  # of other calibrations, say, which a label does not tell
    display.job_started("m wanda 0.5")
    display.job_finished("m wanda 0.5", record("wanda", 30.0), 8.0)
    assert display.eta() == 16.0 and "1 of 3 jobs" in screen(display)


def test_failed_and_known_jobs_have_ended_and_tell_nothing_of_the_time_left():
    display = Display(Clock())
    display.sweep_started("mine", ["m wanda 0.3", "m gptq", "m wanda 0.5"], [])
    display.job_failed("m gptq", "ModelError: no")
    display.job_finished("m wanda 0.3", record("wanda", 30.0), 0.0)
    assert display.eta() is None and "2 of 3 jobs" in screen(display)


def test_a_dense_record_of_before_stands_beside_the_results():
    display = Display()
    display.sweep_started("mine", ["m wanda 0.3"], [record("dense", 20.0)])
    display.job_started("m wanda 0.3")
    display.job_finished("m wanda 0.3", record("wanda", 31.5), 1.0)
    assert re.search(r"31\.50 +20\.00", screen(display))


def launch(folder, *words: str) -> list[str]:
    command = [sys.executable, "-m", "slimsweep.cli.app", *words]
    return [*command, *SMALL, "sweep=mine", f"outputs_dir={folder}/outputs", f"cache_dir={CACHE}"]


def test_without_a_terminal_each_event_is_one_line(tmp_path):
    ran = subprocess.run(launch(tmp_path, "-m", "technique=[],magnitude"), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not CONTROL.search(ran.stdout) and ran.stderr == ""
    events = [one for one in ran.stdout.splitlines() if re.match(r"\d\d:\d\d:\d\d ", one)]
    words = [one[9:] for one in events]
    assert words[0] == "mine: 2 jobs, 0 already recorded"
    recorded = r"\[2/2\] recorded: random magnitude 0.5 in \d+\.\d s: .*/record\.json"
    assert any(re.fullmatch(recorded, one) for one in words)
    table = ran.stdout.index("\n| key")
    assert len(events) == len(ran.stdout[:table].splitlines()), "each line before the table is an event"
    assert not any("#0" in one or "Launching" in one for one in words)


def test_on_a_terminal_there_is_one_display_and_the_table_at_the_end(tmp_path):
    child, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    words = launch(tmp_path, "-m", "technique=[],magnitude")
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(words, stdin=ours, stdout=ours, stderr=ours, env=environment, close_fds=True)
    os.close(ours)
    parts = []
    while True:
        try:
            parts.append(os.read(child, 65536))
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(parts).decode())
    assert "2 of 2 jobs" in plain and "at work" in plain and "| magnitude |" in plain
    assert "Tokenizing" not in plain and "it/s" not in plain and "#0 :" not in plain


def test_a_failing_job_is_shown_with_its_reason_and_the_others_go_on(tmp_path):
    (tmp_path / "conf" / "technique").mkdir(parents=True)
    (tmp_path / "broken_demo.py").write_text(
        "from dataclasses import dataclass\n"
        "from slimsweep.techniques.pruning.magnitude import Magnitude\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class BrokenDemo(Magnitude):\n"
        "    def apply(self, model, context):\n"
        "        raise RuntimeError('weights are not finite')\n"
    )
    (tmp_path / "conf" / "technique" / "broken_demo.yaml").write_text(
        "# @package technique.broken_demo\n"
        "defaults: [/pruner@_here_, _self_]\n"
        "_target_: broken_demo.BrokenDemo\n"
        "ratio: ${ratio}\n"
    )
    words = launch(tmp_path, "--config-dir", f"{tmp_path}/conf", "-m", "technique=broken_demo,magnitude")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert ran.returncode == 1
    assert re.search(r"\d\d failed: random broken_demo 0\.5: \w*Error: .*weights are not finite", ran.stdout)
    assert "recorded: random magnitude 0.5" in ran.stdout and "Traceback" not in ran.stdout
    assert "1 of 2 jobs of mine have no record" in ran.stderr and "weights are not finite" in ran.stderr
