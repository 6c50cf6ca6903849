"""Answers token by token: their text and numbers, and where two of them part."""

from types import SimpleNamespace

import pytest

from slimsweep.demo.answer import Answer, parting
from slimsweep.models.generation import Decoding, generate


def finished(model, prompt, tokens=8):
    answer = Answer(model, prompt, Decoding(max_new_tokens=tokens))
    while answer.step():
        pass
    return answer


def writing(model, token_ids):
    """An answer whose tokens are given."""
    answer = Answer(model, [1], Decoding())
    answer.token_ids = list(token_ids)
    return answer


def test_an_answer_is_what_generate_writes_with_its_numbers(stories260k):
    prompt = stories260k.tokenizer("Once upon a time")["input_ids"]
    answer, whole = finished(stories260k, prompt), generate(stories260k, [prompt], Decoding(max_new_tokens=8))
    assert answer.token_ids == whole.token_ids[0] and answer.text == whole.texts[0]
    assert answer.is_done and not answer.is_ended
    assert answer.first_seconds > 0 and answer.tokens_per_second > 0
    assert "".join(answer.text_of(place, place + 1) for place in range(8)) == answer.text


def test_speed_leaves_out_the_first_token_and_the_time_between_steps(tiny, monkeypatch):
    clock = iter([10.0, 12.0, 50.0, 50.5, 90.0, 90.5])  # a prompt of 2 s, then two tokens of 0.5 s
    monkeypatch.setattr("slimsweep.demo.answer.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    answer = Answer(tiny, [5, 6, 7], Decoding(max_new_tokens=9))
    assert answer.step() and answer.tokens_per_second is None
    assert answer.step() and answer.step()
    answer.close()
    assert (answer.first_seconds, answer.tokens_per_second) == (2.0, 2.0)


def test_an_answer_that_is_closed_keeps_its_text(tiny):
    answer = Answer(tiny, [5, 6, 7], Decoding(max_new_tokens=9))
    answer.step()
    answer.close()
    assert answer.is_done and len(answer.token_ids) == 1 and not answer.step()


def test_a_character_in_two_tokens_waits_for_the_second(tiny):
    first, second = tiny.tokenizer("é")["input_ids"]
    answer = writing(tiny, [*tiny.tokenizer("caf")["input_ids"], first])
    assert answer.text == "caf"
    answer.token_ids.append(second)
    assert answer.text == "café"
    assert answer.text_of(0, 4) + answer.text_of(4, 5) == "caf\ufffdé"
    assert answer.word(4) == "'é'"


def test_the_end_is_a_word_too(tiny):
    answer = writing(tiny, [*tiny.tokenizer("a")["input_ids"], tiny.tokenizer.eos_token_id])
    assert answer.is_ended and answer.text == "a"
    assert (answer.word(0), answer.word(1)) == ("'a'", "its end")


def test_a_tokenizer_is_asked_not_to_clean_up_the_text(tiny, monkeypatch):
    def decode(ids, clean_up_tokenization_spaces=True, **_):
        return "ab." if clean_up_tokenization_spaces else "ab ."

    monkeypatch.setattr(tiny.tokenizer, "decode", decode)
    assert writing(tiny, [5, 6, 7]).text == "ab ."


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        ([5, 6, 7], [5, 6, 7], None),
        ([5, 6, 7], [5, 9, 7], 1),
        ([4], [5, 9], 0),
        ([5, 6], [5, 6, 7], None),  # the shorter one is still at work, or was stopped
        ([5, 2], [5, 6, 7], 1),  # 2 ends the first
        ([], [], None),
    ],
)
def test_answers_part_at_the_first_token_that_differs(first, second, place):
    assert parting(first, second) == parting(second, first) == place
