"""Conversations: their turns, their end, and what is forgotten."""

import pytest

from slimsweep.demo.conversation import Conversation
from slimsweep.errors import DemoError
from slimsweep.models.generation import Decoding, generate


def test_pieces_are_the_answer_and_become_a_turn(stories260k):
    talk = Conversation(stories260k, 12)
    answer = talk.ask("Once upon a time")
    pieces = list(talk.pieces(answer))
    prompt = stories260k.tokenizer("Once upon a time")["input_ids"]
    assert "".join(pieces) == answer.text == generate(stories260k, [prompt], Decoding(max_new_tokens=12)).texts[0]
    assert len(pieces) > 6 and talk.turns == [("user", "Once upon a time"), ("assistant", answer.text)]
    told = talk.told(answer)
    assert told["tokens"] == 12 and not told["ended"] and told["tokens_per_second"] > 0
    talk.reset()
    assert talk.turns == []


def test_an_answer_that_is_stopped_stays_in_the_conversation(tiny):
    talk = Conversation(tiny, 60)
    answer = talk.ask("a")
    pieces = talk.pieces(answer)
    next(pieces)
    pieces.close()
    assert answer.is_done and talk.turns == [("user", "a"), ("assistant", answer.text)]


def test_the_first_turns_are_forgotten_where_the_model_has_no_room(tiny):  # which takes 128 tokens, one a letter
    talk = Conversation(tiny, 20)
    talk.turns = [("user", "a" * 50), ("assistant", "b" * 30), ("user", "c"), ("assistant", "d")]
    talk.ask("e" * 60).close()
    assert talk.forgotten == 2 and [text[0] for _, text in talk.turns] == ["c", "d", "e"]
    talk.turns.append(("assistant", "f"))
    talk.ask("g").close()
    assert talk.forgotten == 0
    talk.turns.append(("assistant", "h"))
    with pytest.raises(DemoError, match="has 200 tokens"):
        talk.ask("i" * 200)
    assert [text[0] for _, text in talk.turns] == ["c", "d", "e", "f", "g", "h"]


def test_a_long_prompt_alone_gets_the_room_that_is_left(tiny):
    talk = Conversation(tiny, 20)
    answer = talk.ask("a" * 120)
    list(talk.pieces(answer))
    assert len(answer.token_ids) <= 8 and talk.forgotten == 0
