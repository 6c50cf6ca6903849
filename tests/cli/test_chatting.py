"""`slim chat` as one types it, in a terminal too."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT
from small_jobs import SMALL, record_at
from typer.testing import CliRunner

from slimsweep.cli import chatting
from slimsweep.cli.slim import app
from slimsweep.models.sources.base import ModelSource


@pytest.fixture
def slim(tmp_path):
    def command(*words, lines=""):
        return CliRunner().invoke(app, ["chat", *map(str, words), "--outputs", str(tmp_path / "outputs")], input=lines)

    return command


@pytest.fixture
def key(slimsweep):
    return record_at(slimsweep(*SMALL, "technique=magnitude"))["key"]


@pytest.fixture
def stories(slimsweep, shared):
    model = ("model=local", f"model.path={shared / 'models' / 'stories260K'}", "dtype=float32", "evaluation=cost")
    return record_at(slimsweep(*model, "technique=magnitude", "ratio=0.2", "tracker=none"))["key"]


def test_one_prompt_gives_one_answer_on_standard_output(slim, stories):
    answer = slim(stories[:8], "--prompt", "Once upon a time", "--tokens", 12)
    assert answer.exit_code == 0, answer.output
    told = json.loads(slim(stories, "--prompt", "Once upon a time", "--tokens", 12, "--format", "json").stdout)
    assert answer.stdout == told["text"] + "\n" and "[12 tokens, first after " in answer.stderr
    assert told["model"] == "stories260K magnitude 0.2" and told["tokens"] == 12 and not told["ended"]
    dense = slim(stories, "--dense", "--prompt", "Once upon a time", "--tokens", 12, "--format", "json")
    assert json.loads(dense.stdout)["model"] == "stories260K dense"
    assert told["key"] == stories and told["temperature"] == 0 and told["max_new_tokens"] == 12
    by_prefix = json.loads(
        slim(stories[:8], "--prompt", "Once", "--tokens", 2, "--temperature", 0.5, "--format", "json").stdout
    )
    assert by_prefix["key"] == stories and by_prefix["temperature"] == 0.5
    assert len(json.loads(dense.stdout)["key"]) == 64 and json.loads(dense.stdout)["key"] != stories
    assert json.loads(dense.stdout)["text"].startswith(", there was a little girl named")


def test_a_conversation_goes_on_until_it_is_reset(slim, key, monkeypatch):
    asked = []
    from slimsweep.demo import conversation

    known = conversation.prompt_ids
    monkeypatch.setattr(
        conversation, "prompt_ids", lambda model, turns: asked.append(list(turns)) or known(model, turns)
    )
    answer = slim(key, "--tokens", 3, lines="one\ntwo\n\n/rest\n/reset\nthree\n/quit\nfour\n")
    assert answer.exit_code == 0, answer.output
    texts = [[text for role, text in turns if role == "user"] for turns in asked]
    assert texts == [["one"], ["one", "two"], ["three"]]
    assert answer.stdout.count(" tokens/s]") == 3 and "/rest is no command" in answer.stdout
    assert "no chat template" in answer.stdout and "forgotten" in answer.stdout


def test_the_end_of_the_input_ends_the_program(slim, key):
    assert slim(key, lines="").exit_code == 0


def test_a_prompt_that_is_too_long_is_told_and_the_program_goes_on(slim, key):
    answer = slim(key, "--tokens", 3, lines=f"{'a' * 3000}\none\n")
    assert "has 3000 tokens and the model takes 2048" in answer.stdout and answer.stdout.count("[3 tokens") == 1
    alone = slim(key, "--prompt", "a" * 3000)
    assert alone.exit_code == 1 and alone.stderr.strip().endswith(
        "slim: the prompt has 3000 tokens and the model takes 2048: shorten it"
    )


def test_bad_words_are_refused_before_weights_load(slim, key, monkeypatch):
    monkeypatch.setattr(ModelSource, "load", None)  # loading would call it
    cases = {
        ("0000",): "no record starts with '0000'",
        (key, "--format", "json"): "give --prompt TEXT too",
        (key, "--prompt", " "): "--prompt is empty",
        ("--dense",): "give its key",
    }
    for words, message in cases.items():
        answer = slim(*words)
        assert answer.exit_code == 1 and message in answer.stderr, words


def test_without_a_key_the_default_model_answers_dense(tmp_path):
    experiment = chatting._default(tmp_path)
    assert experiment.label == "smollm2_135m dense" and experiment.outputs_dir == tmp_path
    assert experiment.cache_dir == tmp_path / "cache"


def read_until(terminal, text, seconds=120.0):
    """What a program writes to its terminal until some text is there."""
    seen, limit = "", time.monotonic() + seconds
    while text not in seen and time.monotonic() < limit:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
    assert text in seen, seen
    return seen


def test_ctrl_c_stops_an_answer_and_not_the_program(key, tmp_path):
    terminal, end = pty.openpty()
    command = ["chat", key, "--tokens", "2000", "--outputs", str(tmp_path / "outputs")]
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    program = subprocess.Popen(
        [sys.executable, "-m", "slimsweep.cli.slim", *command],
        **dict.fromkeys(("stdin", "stdout", "stderr"), end),
        env=environment,
    )
    try:
        read_until(terminal, "> ")
        os.write(terminal, b"one\n")
        read_until(terminal, "one")
        time.sleep(1)
        program.send_signal(signal.SIGINT)
        said = read_until(terminal, "tokens/s]")
        written = int(re.search(r"\[stopped\]\s+\[(\d+) tokens", said).group(1))
        assert 0 < written < 2000 and program.poll() is None
        os.write(terminal, b"/quit\n")
        assert program.wait(timeout=60) == 0
    finally:
        program.kill()
        program.wait()
        os.close(terminal)
        os.close(end)


@pytest.fixture
def broken(slimsweep, monkeypatch):
    """A record whose model gives NaN where it is loaded for a chat."""
    key = record_at(slimsweep(*SMALL, "technique=magnitude"))["key"]
    from slimsweep.pipeline.rebuild import Rebuild

    known = Rebuild.model

    def spoilt(rebuild, **settings):
        model = known(rebuild, **settings)
        for parameter in model.module.parameters():
            parameter.data.fill_(float("nan"))
        return model

    monkeypatch.setattr(Rebuild, "model", spoilt)
    return key


def test_a_broken_model_is_named_and_the_program_goes_on(slim, broken):
    answer = slim(broken, lines="one\ntwo\n/quit\n")
    assert answer.exit_code == 0 and answer.stdout.count("[random magnitude 0.5 cannot go on: the logits") == 2
    alone = slim(broken, "--prompt", "one", "--format", "json")
    assert alone.exit_code == 1 and "slim: random magnitude 0.5 cannot go on: the logits" in alone.stderr
    assert alone.stdout == ""


def test_an_error_of_the_model_ends_one_answer_and_not_the_program(slim, key, monkeypatch):
    from slimsweep.models import streaming

    known, calls = streaming.written_ids, []

    def fail_once(*arguments, **settings):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return known(*arguments, **settings)

    monkeypatch.setattr(streaming, "written_ids", fail_once)
    answer = slim(key, "--tokens", 3, lines="one\ntwo\n/quit\n")
    assert answer.exit_code == 0, answer.output
    assert "[random magnitude 0.5 cannot go on: out of memory (OutOfMemoryError: CUDA out of memory." in answer.stdout
    assert "--tokens" in answer.stdout and "/reset" in answer.stdout.partition("cannot go on")[2]
    assert answer.stdout.count("[3 tokens") == 1
    calls.clear()
    alone = slim(key, "--prompt", "one")
    assert alone.exit_code == 1
    assert alone.stderr.splitlines()[-1].startswith("slim: random magnitude 0.5 cannot go on: out of memory (OutOfMem")
