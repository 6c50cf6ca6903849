"""Words as people type them: knobs of some jobs, names that look like numbers, home folders, grids, Ctrl-C."""

import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import CACHE, PROJECT
from hydra.utils import get_class
from omegaconf import OmegaConf

from slimsweep.cli.arguments import TEXT, from_shell, readable
from slimsweep.records.store import Store

SHAPES = ("model=random", "model.weights=meta", "evaluation=cost", "tracker=none")
LISTED = (*SHAPES, "dry_run=true")


def sweep_file(tmp_path: Path, lines: str, name: str = "mine") -> str:
    """Write a sweep file of one's own; returns the option that finds it."""
    folder = tmp_path / "own" / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"# @package _global_\n{lines}")
    return f"--config-dir={tmp_path / 'own'}"


def labels(answer) -> list[str]:
    """The jobs that a dry run lists."""
    assert answer.status == 0, answer.err
    return [line.split("missing")[1].strip() for line in answer.out.splitlines() if " missing  " in line]


def test_a_plain_knob_reaches_the_jobs_that_have_its_technique(slimsweep):
    knob = "technique.sparsegpt.block_columns=64"
    plain = ["random wanda 0.5 seed=0", "random sparsegpt 0.5 block_columns=64 seed=0"]
    assert labels(slimsweep("-m", *LISTED, "technique=wanda,sparsegpt", knob)) == plain
    assert labels(slimsweep("+sweeps=unstructured", *LISTED, "ratio=0.5", knob)) == [
        *("random dense", "random magnitude 0.5", plain[1], plain[0])
    ]
    named = ("-m", *LISTED, "technique=[],wanda", "+technique@technique.again=magnitude", "technique.again.passes=2")
    assert labels(slimsweep(*named)) == [
        *("random magnitude 0.5 passes=2", "random wanda+magnitude 0.5 passes=2 seed=0")
    ]


def test_null_on_the_command_line_reaches_the_jobs_of_a_sweep_once(slimsweep):
    epochs = ("technique.lora.tokens=null", "technique.lora.epochs=1")
    assert labels(slimsweep("-m", *LISTED, "technique=[],lora", *epochs)) == [
        *("random dense", "random lora tokens=null epochs=1 seed=0")
    ]


def test_a_knob_of_one_model_reaches_the_jobs_of_that_model(slimsweep, tmp_path):
    folder = tmp_path / "epoch"
    folder.mkdir()
    config = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 258, **config}))
    models = ("-m", "model=random,local", f"model.path={folder}", *LISTED[1:])
    assert labels(slimsweep(*models)) == ["random dense", "epoch dense"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+sweeps=unstructured", "technique.sparsgpt.passes=2"], "no job has technique.sparsgpt; there are: magn"),
        (["+sweeps=unstructured", "technique.sparsgpt.passes=2"], "Did you mean: sparsegpt?"),
        (["+sweeps=unstructured", "technique.gptq.bits=3"], "no job has technique.gptq; there are: magnitude, spar"),
        (["+sweeps=unstructured", "technique.wanda.pases=2"], "Did you mean: passes or pattern?"),
        (["+sweeps=unstructured", "+technique.wnda.passes=2"], "Did you mean: wanda?"),
        (["+sweeps=dense", "technique.wanda.passes=2"], "no job has a technique; choose one (wanda)"),
        (["-m", "model.pth=x"], "no job has model.pth"),
        (["technique.wanda.passes=2"], "No technique is chosen that could have this setting"),
    ],
)
def test_a_knob_that_no_job_has_is_refused_with_the_nearest_name(slimsweep, words, message):
    answer = slimsweep(*words, *LISTED)
    assert answer.status == 1 and message in answer.err


def test_a_technique_on_the_command_line_drops_the_knobs_of_the_grids_it_replaces(slimsweep):
    assert labels(slimsweep("+sweeps=bits", *LISTED, "technique=rtn")) == [
        *("random rtn", "random rtn bits=2", "random rtn bits=3", "random rtn bits=8"),
    ]


def keys(answer) -> list[str]:
    assert answer.status == 0, answer.err
    return [line.split()[0] for line in answer.out.splitlines() if " missing  " in line]


def test_a_ratio_counted_by_range_is_the_ratio_one_types(slimsweep):
    counted = slimsweep("-m", *LISTED, "technique=wanda", "ratio=range(0.1,0.35,0.1)")
    assert keys(counted) == keys(slimsweep("-m", *LISTED, "technique=wanda", "ratio=0.1,0.2,0.3"))
    bits = ("-m", *LISTED, "technique=selective", "technique.selective.group_size=4")
    counted = slimsweep(*bits, "technique.selective.average_bits=range(3,4.1,0.2)")
    typed = slimsweep(*bits, "technique.selective.average_bits=3,3.2,3.4,3.6,3.8,4")
    assert len(keys(typed)) == 6 and keys(counted) == keys(typed)
    assert len(set(keys(slimsweep("-m", *LISTED, "technique=random", "ratio=0,0.0,-0.0")))) == 1
    record = slimsweep(*SHAPES, "technique=wanda", "ratio=0.30000000000000004")
    assert json.loads(Path(record.out.splitlines()[-1]).read_text())["ratio"] == 0.3
    assert "changes nothing" not in record.out


@pytest.mark.parametrize("name", ["20241128", "1e5", "1.10", "1_000", "true", "007"])
def test_a_sweep_is_called_what_was_typed(slimsweep, tmp_path, name):
    answer = slimsweep("-m", *SHAPES, f"sweep={name}")
    assert answer.status == 0, answer.err
    assert Store(tmp_path / "outputs").sweep_names() == [name]


def test_names_revisions_tags_and_paths_are_text_however_they_look(slimsweep, tmp_path):
    words = ("model.name=1e5", "tracker=wandb", "tracker.tags=[2024,1.10]", "tracker.notes=12", "tracker.mode=disabled")
    answer = slimsweep(*SHAPES[:3], *words, "technique=wanda", "calibration=text", "calibration.path=2024")
    record = json.loads(Path(answer.out.splitlines()[-1]).read_text())
    assert record["model"] == "1e5" and record["config"]["calibration"]["path"] == "2024"
    hub = slimsweep("model=smollm2_135m_hub", "model.revision=2e4", *SHAPES[1:])
    assert json.loads(Path(hub.out.splitlines()[-1]).read_text())["model_revision"] == "2e4"


def test_a_number_in_a_file_where_text_belongs_is_text_or_told_with_its_key(slimsweep, tmp_path):
    own = sweep_file(tmp_path, "sweep: 20241128\nhydra:\n  sweeper:\n    grids:\n      - {technique: wanda}\n")
    assert "20241128: 1 jobs" in slimsweep(own, *LISTED, "+sweeps=mine").out
    for number in ("1.10", "2.0"):
        own = sweep_file(tmp_path, f"sweep: {number}\nhydra:\n  sweeper:\n    grids:\n      - {{technique: wanda}}\n")
        answer = slimsweep(own, *LISTED, "+sweeps=mine")
        assert answer.status == 1 and f"sweep={float(number)} is a number where text belongs" in answer.err
    own = sweep_file(tmp_path, "sweep: mine\nmodel: {name: 2.0}\ncalibration: {corpus: 2.0}\n")
    answer = slimsweep(own, *LISTED, "+sweeps=mine")
    assert "model.name=2.0 is a number" in answer.err and "calibration.corpus=2.0 is a number" in answer.err


def test_every_text_field_of_a_choice_is_kept_as_text():
    words = {"weights", "task", "draw", "mode", "shape"}  # one of a few words, or no text
    for group in ("model", "calibration", "tracker"):
        for path in (PROJECT / "conf" / group).glob("*.yaml"):
            for field in dataclasses.fields(get_class(OmegaConf.load(path)._target_)):
                if "str" in str(field.type) and field.name not in words:
                    key = f"{group}.{field.name}"
                    assert any(fnmatchcase(key, known) for known in TEXT) or key == "model.cache_dir", key


def test_an_option_may_stand_between_two_settings(slimsweep, tmp_path):
    option = sweep_file(tmp_path, "sweep: mine\nhydra: {sweeper: {grids: [{technique: wanda}]}}\n")
    for words in ([option], option.split("=", 1)):
        answer = slimsweep(LISTED[0], *words, "+sweeps=mine", *LISTED[1:], "ratio=0.3,0.5")
        assert labels(answer) == ["random wanda 0.3 seed=0", "random wanda 0.5 seed=0"]


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["a=1", "--info"], ["--info=all", "a=1"]),
        (["--info", "a=1"], ["--info=all", "a=1"]),
        (["a=1", "-i", "searchpath", "b=2"], ["-i", "searchpath", "a=1", "b=2"]),
        (["a=1", "--experimental-rerun", "FILE", "-h"], ["--experimental-rerun", "FILE", "-h", "a=1"]),
    ],
)
def test_options_keep_their_values(words, read):
    assert from_shell(words) == read


def test_a_sweep_file_without_a_mode_runs_its_grids(slimsweep, tmp_path):
    own = sweep_file(tmp_path, "sweep: mine\nhydra:\n  sweeper:\n    grids:\n      - {technique: '[],wanda'}\n")
    assert labels(slimsweep(own, *LISTED, "+sweeps=mine")) == ["random dense", "random wanda 0.5 seed=0"]
    refused = slimsweep(own, *LISTED, "+sweeps=mine", "hydra.mode=RUN")
    assert refused.status == 1 and "add `mode: MULTIRUN`" in refused.err


@pytest.mark.parametrize(
    ("grid", "jobs"),
    [
        ("{technique: wanda, ratio: [0.3, 0.5]}", ["wanda 0.3 seed=0", "wanda 0.5 seed=0"]),
        ("{technique: wanda, ratio: 0.3}", ["wanda 0.3 seed=0"]),
        ("{technique: []}", ["dense"]),
        ("{technique: [[], magnitude, [magnitude, rtn]]}", ["dense", "magnitude 0.5", "magnitude+rtn 0.5"]),
        ("{technique: magnitude, technique.magnitude.pattern: '2:4'}", ["magnitude 0.5 2:4"]),
        (
            "{technique: magnitude, technique.magnitude.pattern: ['2:4', '4:8']}",
            ["magnitude 0.5 2:4", "magnitude 0.5 4:8"],
        ),
        ("{technique: rtn, technique.rtn.group_size: [64, 16]}", ["rtn", "rtn group_size=16"]),
    ],
)
def test_a_grid_holds_numbers_and_lists(slimsweep, tmp_path, grid, jobs):
    own = sweep_file(tmp_path, f"sweep: mine\nhydra:\n  sweeper:\n    grids:\n      - {grid}\n")
    assert labels(slimsweep(own, *LISTED, "+sweeps=mine")) == [f"random {job}" for job in jobs]


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ("[{technique: magnitude, technique.magnitude.pattern: 2:4}]", "technique.magnitude.pattern=124 is a number"),
        ("[{technique: magnitude, technique.magnitude.pattern: 2:4}]", "(pattern: '2:4')"),
        ("[{technique: [wanda, rtn]}]", 'technique: "[wanda,rtn]" for one job'),
        ("{technique: wanda}", "give a list of grids"),
        ("[{technique: wanda, model.name: a=b}]", "model.name='a=b'"),
    ],
)
def test_a_grid_that_yaml_reads_otherwise_is_told_with_its_key(slimsweep, tmp_path, grids, message):
    own = sweep_file(tmp_path, f"sweep: mine\nhydra:\n  sweeper:\n    grids: {grids}\n")
    answer = slimsweep(own, *LISTED, "+sweeps=mine")
    assert answer.status == 1 and message in answer.err


def test_the_home_folder_is_found(slimsweep, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    answer = slimsweep("model=local", "model.path=~/no model", *LISTED[1:])
    assert f"{tmp_path}/no model/config.json" in answer.err
    answer = slimsweep("-m", "model=local", "model.path=~/one,~/two", *LISTED[1:])
    assert f"{tmp_path}/one/config.json" in answer.err and f"{tmp_path}/two/config.json" in answer.err
    answer = slimsweep(*SHAPES, "outputs_dir=~/kept")
    assert Store(tmp_path / "kept").records(), answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=local", "model.path=runs/epoch=1"], "\"model.path='runs/epoch=1'\""),
        (["model=local", "model.path=modèles/a"], "\"model.path='modèles/a'\""),
        (["wanda"], "'wanda' is no setting: write KEY=VALUE"),
        (["ratio", "=", "0.5"], "without spaces around the ="),
    ],
)
def test_a_word_that_cannot_be_read_is_answered_with_what_to_type(slimsweep, words, message):
    answer = slimsweep(*words)
    assert answer.status == 1 and message in answer.err and "Lexer" not in answer.err
    if message.startswith('"model.path'):
        folder = message.split("'")[1]
        assert f"{folder}/config.json" in slimsweep("model=local", message.strip('"'), *LISTED[1:]).err


def test_an_empty_folder_setting_means_its_default(monkeypatch, tmp_path):
    monkeypatch.setenv("SLIMSWEEP_OUTPUTS", "")
    monkeypatch.setenv("SLIMSWEEP_DATA", "")
    command = [sys.executable, "-m", "slimsweep.cli.app", "outputs_dir=", "--cfg", "job", "--resolve"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    composed = OmegaConf.create(shown.stdout)
    assert (composed.outputs_dir, composed.data_dir) == ("outputs", None)
    assert composed.cache_dir == str(PROJECT / "outputs" / "cache")


def test_the_former_word_of_a_task_is_todays():
    assert readable("model.auto_class=seq2seq_lm") == "model.task=seq2seq_lm"


def test_a_second_ctrl_c_kills_and_brings_the_cursor_back():
    child, ours = pty.openpty()
    code = "import os, signal\nfrom slimsweep.cli import app\n"
    code += "signal.signal(signal.SIGINT, app._interrupt)\n"
    code += "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt:\n    pass\n"
    code += "os.kill(os.getpid(), signal.SIGINT)\nprint('still here')"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=ours, stdout=ours, stderr=ours)
    os.close(ours)
    assert process.wait(timeout=120) == -signal.SIGINT
    said = os.read(child, 4096)
    assert b"\x1b[?25h" in said and b"still here" not in said


def test_ctrl_c_ends_with_one_line_and_keeps_what_is_finished(tmp_path):
    command = [
        sys.executable,
        "-m",
        "slimsweep.cli.app",
        "-m",
        "model=random",
        "technique=[],magnitude,wanda,sparsegpt",
    ]
    small = ("evaluation.context_tokens=64", "evaluation.max_windows=2", "evaluation.tasks=[]", "tracker=none")
    small += ("calibration.sequences=2", "calibration.tokens=32", "cache=off", f"cache_dir={CACHE}")
    outputs = f"outputs_dir={tmp_path}/outputs"
    process = subprocess.Popen(
        [*command, *small, outputs],
        env={name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    store, deadline = Store(tmp_path / "outputs"), time.monotonic() + 180
    while not store.records() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    said, command = err.strip().splitlines()[-2:]
    assert re.match(r"slimsweep: interrupted\. [1-4] of 4 jobs of multirun are recorded and kept\.", said)
    assert command.startswith("Go on with: slimsweep -m model=random 'technique=[],magnitude,wanda,sparsegpt'")
    assert "Traceback" not in out + err
    states = [job.state for job in store.status("multirun")]
    assert states[0] == "done" and set(states) == {"done", "missing"}
