"""Conversations: their turns, their end, and what is forgotten."""

import gc
import weakref

import pytest
import torch
from small_pairs import seq2seq

from slimsweep.demo.answer import Answer
from slimsweep.demo.conversation import Conversation
from slimsweep.errors import DemoError
from slimsweep.models.generation import Decoding, generate


def test_pieces_are_the_answer_and_become_a_turn(stories260k):
    conversation = Conversation(stories260k, 12)
    answer = conversation.ask("Once upon a time")
    pieces = list(conversation.pieces(answer))
    prompt = stories260k.tokenizer("Once upon a time")["input_ids"]
    assert "".join(pieces) == answer.text == generate(stories260k, [prompt], Decoding(max_new_tokens=12)).texts[0]
    assert len(pieces) > 6 and conversation.turns == [("user", "Once upon a time"), ("assistant", answer.text)]
    told = conversation.as_dict(answer)
    assert told["tokens"] == 12 and not told["ended"] and told["tokens_per_second"] > 0
    conversation.reset()
    assert conversation.turns == []


def test_an_answer_that_is_stopped_stays_in_the_conversation(tiny):
    conversation = Conversation(tiny, 60)
    answer = conversation.ask("a")
    pieces = conversation.pieces(answer)
    next(pieces)
    pieces.close()
    assert answer.is_done and conversation.turns == [("user", "a"), ("assistant", answer.text)]


def test_the_first_turns_are_forgotten_where_the_model_has_no_room(tiny):  # which takes 128 tokens, one a letter
    conversation = Conversation(tiny, 20)
    conversation.turns = [("user", "a" * 50), ("assistant", "b" * 30), ("user", "c"), ("assistant", "d")]
    conversation.ask("e" * 60).close()  # all turns would leave 5 tokens
    assert conversation.forgotten == 2 and [text[0] for _, text in conversation.turns] == ["c", "d", "e"]
    conversation.turns.append(("assistant", "f"))
    conversation.ask("g").close()
    assert conversation.forgotten == 0
    conversation.turns.append(("assistant", "h"))
    with pytest.raises(DemoError, match="has 200 tokens"):
        conversation.ask("i" * 200)
    assert [text[0] for _, text in conversation.turns] == ["c", "d", "e", "f", "g", "h"]


def test_a_long_prompt_alone_gets_the_room_that_is_left(tiny):
    conversation = Conversation(tiny, 20)
    answer = conversation.ask("a" * 120)
    list(conversation.pieces(answer))
    assert len(answer.token_ids) <= 8 and conversation.forgotten == 0


def test_turns_that_fit_are_kept_and_the_answer_gets_the_room_that_is_left(tiny):
    conversation = Conversation(tiny, 120)
    conversation.turns = [("user", "a" * 40), ("assistant", "b" * 20)]
    answer = conversation.ask("c" * 20)  # leaves 47 of 128 tokens, more than a quarter
    assert conversation.forgotten == 0 and len(conversation.turns) == 3
    list(conversation.pieces(answer))
    assert 0 < len(answer.token_ids) <= 48
    conversation.turns = [("user", "a" * 60), ("assistant", "b" * 20)]
    conversation.ask("c" * 20).close()
    assert conversation.forgotten == 2


def test_an_encoder_decoder_reads_no_earlier_turns_and_forgets_none(tmp_path):
    model = seq2seq("bart", tmp_path).load(torch.float32, torch.device("cpu"))  # which writes 40 tokens at most
    conversation = Conversation(model, 99)
    conversation.turns = [("user", "one"), ("assistant", "two")]
    conversation.ask("three").close()
    assert conversation.forgotten == 0 and len(conversation.turns) == 3


def test_a_tokenizer_that_changes_earlier_characters_repeats_only_what_follows_them(tiny, monkeypatch):
    texts = {1: "ab", 2: "ab c", 3: "abx"}
    monkeypatch.setattr(Answer, "_decode", lambda answer, ids: texts.get(len(ids), ""))
    conversation = Conversation(tiny, 3)
    answer = conversation.ask("a")
    answer._tokens = iter_of([5, 6, 7])
    assert list(conversation.pieces(answer)) == ["ab", " c", "x"]


def iter_of(ids):
    """Tokens of a stream that are given."""
    yield from ids


def test_a_broken_model_is_named_and_its_turn_ends(tiny):
    torch.nn.init.constant_(tiny.module.lm_head.weight, float("nan"))
    conversation = Conversation(tiny, 4, title="tiny magnitude 0.9")
    answer = conversation.ask("a")
    with pytest.raises(DemoError, match="^tiny magnitude 0.9 cannot go on: .*not finite"):
        list(conversation.pieces(answer))
    assert answer.is_done and answer.token_ids == [] and conversation.turns == [("user", "a"), ("assistant", "")]


def test_an_error_ends_one_answer_and_leaves_its_prompt_out(tiny):
    seen = []

    def fail(module, arguments, keywords):
        seen.append(weakref.ref(held := torch.zeros(9)))
        torch.empty(2**55 * len(held), dtype=torch.uint8)  # fails in the allocator

    conversation = Conversation(tiny, 4, title="tiny dense")
    conversation.turns = [("user", "a"), ("assistant", "b")]
    hook = tiny.module.register_forward_pre_hook(fail, with_kwargs=True)
    answer = conversation.ask("c")
    gc.disable()
    try:
        with pytest.raises(
            DemoError, match=r"^tiny dense cannot go on: out of memory \(RuntimeError: .*shorter prompt"
        ):
            list(conversation.pieces(answer))
        assert seen and seen[0]() is None  # the failed forward holds no memory, without the garbage collector
    finally:
        gc.enable()
    assert answer.is_failed and conversation.turns == [("user", "a"), ("assistant", "b")]
    hook.remove()
    again = conversation.ask("d")
    assert "".join(conversation.pieces(again)) == again.text and len(conversation.turns) == 4


def test_ctrl_c_while_an_answer_closes_leaves_it_in_the_conversation(tiny):
    conversation = Conversation(tiny, 9)
    answer = conversation.ask("a")
    pieces = conversation.pieces(answer)
    next(pieces)

    class Pressed:
        def close(self):
            raise KeyboardInterrupt

    answer._tokens.close()
    answer._tokens = Pressed()
    with pytest.raises(KeyboardInterrupt):
        pieces.close()
    assert answer.is_done and conversation.turns[-1] == ("assistant", answer.text)
