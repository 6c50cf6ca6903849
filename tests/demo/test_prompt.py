"""Prompts with a chat template, without one, and of encoder-decoders."""

import pytest
from small_pairs import seq2seq
from small_tokenizers import CHATML

from slimsweep.demo.prompt import answer_room, has_template, prompt_ids
from slimsweep.errors import DemoError

TURNS = [("user", "Hi"), ("assistant", " there"), ("user", "Go on")]


@pytest.fixture
def chatting(tiny, monkeypatch):
    monkeypatch.setattr(tiny.tokenizer, "chat_template", CHATML)
    return tiny


def test_a_chat_template_writes_the_turns(chatting):
    text = chatting.tokenizer.decode(prompt_ids(chatting, TURNS))
    assert has_template(chatting) and text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n there<|im_end|>\n"
        "<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_template_the_text_goes_on(tiny):
    assert tiny.tokenizer.decode(prompt_ids(tiny, TURNS)) == "Hi there\nGo on"
    assert tiny.tokenizer.decode(prompt_ids(tiny, TURNS[:1])) == "Hi" and not has_template(tiny)


def test_an_encoder_decoder_reads_the_last_turn_alone(tmp_path):
    import torch

    model = seq2seq("bart", tmp_path).load(torch.float32, torch.device("cpu"))
    assert prompt_ids(model, TURNS) == model.tokenizer("Go on")["input_ids"]
    assert answer_room(model, [1] * 40, 12) == 12 and answer_room(model, [1], 99) == 40
    with pytest.raises(DemoError, match="has 41 tokens and the model takes 40"):
        answer_room(model, [1] * 41, 1)


def test_an_answer_gets_the_room_that_the_prompt_leaves(tiny):  # which takes 128 tokens
    assert answer_room(tiny, [1] * 100, 20) == 20 and answer_room(tiny, [1] * 100, 64) == 28
    with pytest.raises(DemoError, match="has 128 tokens and the model takes 128: shorten it"):
        answer_room(tiny, [1] * 128, 1)
    with pytest.raises(DemoError, match="the prompt is empty"):
        answer_room(tiny, [], 1)
