"""`slim demo` as one types it; slow: its page in Debian's Chromium."""

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from browser import chromium
from conftest import PROJECT
from small_jobs import SMALL, record_at

from slimsweep.models.sources.base import ModelSource
from slimsweep.techniques.pruning.magnitude import Magnitude


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def refused(answer, message):
    assert answer.exit_code == 1 and message in answer.stderr, answer.output
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_missing_gradio_is_told_with_the_command_that_installs_it(slim, monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else known(name, *rest)
    )
    refused(slim("demo", "0000"), "pip install 'slimsweep[demo]'")


def test_keys_and_ports_are_checked_before_weights_load(slimsweep, slim, port, monkeypatch):
    key = record_at(slimsweep(*SMALL, "technique=magnitude"))["key"]
    monkeypatch.setattr(ModelSource, "load", None)  # loading would call it
    refused(slim("demo", "0000", "--port", port), "no record starts with '0000'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        refused(slim("demo", key, "--port", port), f"port {port} of 127.0.0.1 is in use by")
    assert slim("demo", key, "--port", 0).exit_code == 2


def test_the_models_are_loaded_and_served(slimsweep, slim, port, monkeypatch):
    from slimsweep.demo import page

    key = record_at(slimsweep(*SMALL, "technique=magnitude"))["key"]
    served = []
    monkeypatch.setattr(page, "serve", lambda *arguments: served.append(arguments[1:]))
    answer = slim("demo", key[:6], "--port", port, "--no-open")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines() == [
        "loading dense",
        "loading magnitude 0.5",
        f"open http://127.0.0.1:{port} (Ctrl-C ends it)",
    ]
    assert served == [("127.0.0.1", port, False)]


def out_of_memory(self, *_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (("demo",), "random dense"),
        (("chat", "--prompt", "Hi"), "random magnitude 0.5"),
        (("chat", "--dense", "--prompt", "Hi"), "random dense"),
    ],
)
def test_memory_that_ends_while_a_model_is_loaded_is_one_line(slimsweep, slim, monkeypatch, words, title):
    key = record_at(slimsweep(*SMALL, "technique=magnitude"))["key"]
    monkeypatch.setattr(ModelSource, "load", out_of_memory)
    told = "(OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB). Close other programs"
    refused(slim(words[0], key, *words[1:]), f"out of memory while {title} was loaded {told}")


def test_memory_that_ends_while_a_model_is_compressed_again_is_one_line(slimsweep, slim, monkeypatch):
    key = record_at(slimsweep(*SMALL, "technique=magnitude"))["key"]
    monkeypatch.setattr(Magnitude, "apply", out_of_memory)
    refused(slim("demo", key), "out of memory while random magnitude 0.5 was loaded (StageError: stage magnitude: ")


WATCHED = """
import sys

def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        print("NETWORK", arguments[1], flush=True)
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost"):
        print("NETWORK", arguments[0], flush=True)

sys.addaudithook(watch)
from slimsweep.cli.slim import app
app()
"""
"""`slim` that prints every address outside this machine that its process asks for."""


@pytest.fixture
def served(slimsweep, port, tmp_path):
    """Address of a demo of two records that runs in a process of its own; afterwards that process asked no network."""
    words = ("model.shape.max_position_embeddings=512", "model.shape.tie_word_embeddings=false")  # untied: no echo
    keys = [
        record_at(slimsweep(*SMALL, *words, *technique))["key"]
        for technique in (("technique=magnitude", "ratio=0.9"), ("technique=rtn", "technique.rtn.group_size=64"))
    ]
    log = tmp_path / "demo.log"
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src"), "HF_HUB_OFFLINE": "0"}
    environment.pop("GRADIO_ANALYTICS_ENABLED", None)
    command = [
        "demo",
        *keys,
        "--no-open",
        "--port",
        str(port),
        "--outputs",
        str(tmp_path / "outputs"),
        "--tokens",
        "40",
    ]
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", WATCHED, *command], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        assert "NETWORK" not in log.read_text() and "Traceback" not in log.read_text()
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def show(served):
    """Opens the page in a window; gives it with the list of what went wrong or left for the network."""
    with chromium() as browser:

        def opened(**window):
            window = browser.new_context(**window).new_page()
            faults = []
            window.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            window.on("pageerror", lambda error: faults.append(str(error)))
            window.on(
                "request",
                lambda request: (
                    None if request.url.startswith((served, "data:", "blob:")) else faults.append(request.url)
                ),
            )
            window.goto(served, timeout=120_000)
            window.locator(".answers section").nth(2).wait_for(timeout=120_000)
            return window, faults

        yield opened


@pytest.mark.slow
def test_in_a_browser_without_scripts_the_page_says_what_to_do(served):
    with chromium() as browser:
        window = browser.new_context(java_script_enabled=False).new_page()
        window.goto(served, timeout=120_000)
        note = window.locator("noscript p")  # playwright finds no text in a noscript
        assert note.is_visible() and note.bounding_box()["y"] < 100
        assert "Enable JavaScript" in note.inner_text() and "slim chat KEY" in note.inner_text()
        if folder := os.environ.get("DEMO_SCREENSHOTS"):
            window.screenshot(path=f"{folder}/demo_without_scripts.png")
        window = browser.new_context().new_page()
        window.goto(served, timeout=120_000)
        window.locator(".answers section").first.wait_for(timeout=120_000)
        assert not window.locator("noscript").is_visible()


def finished(window):
    """Texts of the panels once all answers are done."""
    window.wait_for_function(
        "[...document.querySelectorAll('.answers section')].every(one => /ended by itself|cut/.test(one.innerText))",
        timeout=120_000,
    )
    return window.locator(".answers section").all_inner_texts()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_in_a_browser_the_models_answer_side_by_side(show, width):
    grounds = set()
    for scheme in ("light", "dark"):
        window, faults = show(viewport={"width": width, "height": 900}, color_scheme=scheme)
        window.get_by_label("Prompt").fill("Once upon a time")
        window.get_by_label("Prompt").press("Enter")
        dense, magnitude, rtn = finished(window)
        assert "Parts from" not in dense and re.search(r"Parts from dense at token \d+: .+ there, .+ here", magnitude)
        assert window.locator(".answers mark").count() >= 1
        for panel in (dense, magnitude, rtn):
            assert re.search(r"[\d.]+ tokens/s\s+first after [\d.]+ s", panel) and panel.count(" MB") == 2
        boxes = [one.bounding_box() for one in window.locator(".answers section").all()]
        assert len({round(box["x"]) for box in boxes}) == (3 if width == 1280 else 1)
        assert window.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        grounds.add(window.evaluate("getComputedStyle(document.body).backgroundColor"))
        if folder := os.environ.get("DEMO_SCREENSHOTS"):
            window.screenshot(path=f"{folder}/demo_{width}_{scheme}.png", full_page=True)
        assert faults == []
    assert len(grounds) == 2


@pytest.mark.slow
def test_in_a_browser_answers_stop_examples_fill_and_empty_prompts_are_told(show):
    window, faults = show(viewport={"width": 1280, "height": 900})
    window.get_by_text("Settings").click()
    window.get_by_label("number input for Longest answer in tokens").fill("400")
    window.get_by_text("The capital of France is").click()
    window.wait_for_function("document.querySelector('textarea').value === 'The capital of France is'")
    window.get_by_role("button", name="Answer").click()
    window.locator(".answers section", has_text=re.compile(r"\d tokens/s")).first.wait_for(timeout=120_000)
    window.get_by_role("button", name="Stop").click()
    window.wait_for_timeout(2000)
    stopped = window.locator(".answers").inner_text()
    window.wait_for_timeout(1000)
    assert window.locator(".answers").inner_text() == stopped and "cut" not in stopped
    window.get_by_label("Prompt").fill("")
    window.get_by_role("button", name="Answer").click()
    window.get_by_text("the prompt is empty").wait_for()
    window.get_by_label("number input for Longest answer in tokens").fill("3")
    window.get_by_label("number input for Temperature").fill("1")
    window.get_by_label("Prompt").fill("a")
    window.get_by_role("button", name="Answer").click()
    assert all("3 tokens" in panel and "Parts from" not in panel for panel in finished(window))
    assert faults == []
