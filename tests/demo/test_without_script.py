"""Sentence for browsers without JavaScript, in the HTML of a page that is really served."""

import asyncio
import functools
import socket
import urllib.request

import gradio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Route

from slimsweep.demo.lineup import LoadedModel
from slimsweep.demo.page import page, serve
from slimsweep.demo.without_script import NOTE, WithNote


def answered(answer, place="/"):
    """Response of an app that gives one answer at `/` and at `/other`."""
    routes = [Route(known, lambda request: answer) for known in ("/", "/other")]
    transport = httpx.ASGITransport(Starlette(routes=routes, middleware=[Middleware(WithNote)]))

    async def get():
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(place)

    return asyncio.run(get())


def test_the_sentence_stands_before_the_element_that_a_script_fills():
    got = answered(HTMLResponse("<body><gradio-app></gradio-app></body>"))
    assert got.content == b"<body>" + NOTE + b"<gradio-app></gradio-app></body>"
    assert int(got.headers["content-length"]) == len(got.content)


def test_other_answers_pass_unchanged():
    assert b"noscript" not in answered(HTMLResponse("<body><gradio-app></gradio-app></body>"), "/other").content
    moved = answered(RedirectResponse("/login"))
    assert moved.status_code == 307 and moved.headers["location"] == "/login" and moved.content == b""


@pytest.fixture
def served(stories260k, monkeypatch):
    """Address of a page that `serve` really serves, in a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = [LoadedModel("dense", "d" * 64, stories260k, 1_000_000, None)]
    blocks = page(models, "stories260K", 8)
    launch = functools.partial(gradio.Blocks.launch, blocks)
    monkeypatch.setattr(blocks, "launch", lambda **settings: launch(**settings | {"prevent_thread_lock": True}))
    serve(blocks, "127.0.0.1", port, False)
    yield f"http://127.0.0.1:{port}/"
    blocks.close()


def test_without_scripts_the_page_says_what_is_missing_and_what_to_do(served):
    with urllib.request.urlopen(served, timeout=60) as answer:
        html = answer.read().decode()
        assert int(answer.headers["content-length"]) == len(html.encode())
    said = html.partition("<noscript>")[2].partition("</noscript>")[0]
    assert "Enable JavaScript" in said and "slim chat KEY" in said
    assert html.index("<body") < html.index("<noscript>") and html.rstrip().endswith("</html>")
    with urllib.request.urlopen(f"{served}config", timeout=60) as other:
        assert b"noscript" not in other.read()
