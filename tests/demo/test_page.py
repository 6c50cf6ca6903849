"""Rounds of answers on the page. In a browser it is opened by tests/cli/test_demonstrating.py."""

import gradio
import pytest
import torch

from slimsweep.demo.lineup import LoadedModel
from slimsweep.demo.page import BEGINNINGS, QUESTIONS, answered, page, serve
from slimsweep.errors import DemoError
from slimsweep.models.generation import Decoding, generate


@pytest.fixture
def models(stories260k):
    return [LoadedModel(title, title[0] * 64, stories260k, 1_000_000, None) for title in ("dense", "wanda 0.5")]


def test_every_round_writes_one_token_of_each_model(models):
    rounds = list(answered(models, "Once upon a time", Decoding(max_new_tokens=3)))
    prompt = models[0].model.tokenizer("Once upon a time")["input_ids"]
    written = generate(models[0].model, [prompt], Decoding(max_new_tokens=3)).texts[0]
    assert rounds[-1].count(written.strip()) == 2 and rounds[0].count(written.strip()) == 0
    assert len(rounds) >= 3


@pytest.mark.parametrize(("text", "says"), [("  \n", "is empty"), ("word " * 2000, "shorten it")])
def test_a_prompt_that_cannot_be_answered_is_refused(models, text, says):
    with pytest.raises(DemoError, match=says):
        list(answered(models, text, Decoding(max_new_tokens=3)))


def test_examples_fit_what_the_model_does(models, monkeypatch):
    told = str(page(models, "stories260K", 8).config)
    assert BEGINNINGS[0] in told and QUESTIONS[0] not in told
    monkeypatch.setattr("slimsweep.demo.page.has_template", lambda model: True)
    assert QUESTIONS[0] in str(page(models, "stories260K", 8).config)


def test_a_broken_model_says_so_and_the_others_go_on(models, tiny):
    torch.nn.init.constant_(tiny.module.lm_head.weight, float("nan"))
    broken = LoadedModel("rtn", "r" * 64, tiny, 1_000_000, None)
    last = list(answered([models[0], broken, models[1]], "Once", Decoding(max_new_tokens=3)))[-1]
    assert last.count("cannot go on: the logits") == 1 and last.count(">3 tokens<") == 2


def test_a_model_that_fails_says_so_and_the_others_go_on(models, tiny, monkeypatch):
    def fail(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(tiny.module, "forward", fail)
    failing = LoadedModel("rtn", "r" * 64, tiny, 1_000_000, None)
    last = list(answered([models[0], failing, models[1]], "Once", Decoding(max_new_tokens=3)))[-1]
    assert last.count("cannot go on: out of memory (OutOfMemoryError: CUDA") == 1 and last.count(">3 tokens<") == 2
    assert "Try a shorter prompt" in last and ">failed<" in last


def test_gradio_takes_no_files_of_note(models, monkeypatch):
    given = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda blocks, **settings: given.update(settings))
    serve(page(models, "stories260K", 8), "127.0.0.1", 7860, False)
    assert given["max_file_size"] == "1kb"
