"""Tokens one by one: those that `generate` writes, made when they are asked for."""

import signal
import threading
import time

import pytest
import torch

from slimsweep.errors import ModelError
from slimsweep.models.generation import Decoding, end_ids, generate
from slimsweep.models.streaming import stream


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "slimsweep-stream"]


def test_a_stream_is_what_generate_writes(stories260k):
    prompt = stories260k.tokenizer("Once upon a time")["input_ids"]
    decoding = Decoding(max_new_tokens=24)
    whole = generate(stories260k, [prompt], decoding)
    assert list(stream(stories260k, prompt, decoding)) == whole.token_ids[0]
    assert not threads()


def test_an_end_token_is_the_last_of_a_stream(tiny):
    first = next(stream(tiny, [5, 6, 7], Decoding(max_new_tokens=1)))
    tiny.module.generation_config.eos_token_id = first
    assert first in end_ids(tiny)
    assert list(stream(tiny, [5, 6, 7], Decoding(max_new_tokens=9))) == [first]


def test_no_token_is_computed_before_it_is_asked_for(tiny):
    forwards = []
    tiny.module.register_forward_hook(lambda *_: forwards.append(1))
    tokens = stream(tiny, [5, 6, 7], Decoding(max_new_tokens=9))
    assert not forwards
    for count in (1, 2, 3):
        next(tokens)
        assert len(forwards) == count
    tokens.close()
    assert len(forwards) == 3 and not threads()


def test_streams_in_turns_do_not_disturb_each_other(tiny, tiny_source):
    other = tiny_source.load(torch.float32, torch.device("cpu"))
    decoding = Decoding(max_new_tokens=6)
    alone = list(stream(tiny, [5, 6, 7], decoding))
    pairs = list(zip(stream(tiny, [5, 6, 7], decoding), stream(other, [5, 6, 7], decoding), strict=True))
    assert pairs == [(token, token) for token in alone]


def test_an_error_within_the_model_reaches_the_reader(tiny):
    def fail(*_):
        raise RuntimeError("out of memory")

    tiny.module.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(stream(tiny, [5, 6, 7], Decoding()))
    assert not threads()


def test_the_settings_of_the_checkpoint_stay(tiny):
    given = tiny.module.generation_config
    tokens = stream(tiny, [5, 6, 7], Decoding(max_new_tokens=9))
    next(tokens)
    tokens.close()
    assert tiny.module.generation_config is given


def test_streams_of_one_model_that_end_in_opening_order_leave_its_end_tokens(tiny):
    tiny.module.generation_config.eos_token_id = [7]
    given, ends = tiny.module.generation_config, end_ids(tiny)
    first, second = (stream(tiny, [5, 6, 7], Decoding(max_new_tokens=9)) for _ in range(2))
    next(first), next(second)
    first.close()
    second.close()
    assert tiny.module.generation_config is given and end_ids(tiny) == ends and 7 in ends


def test_ctrl_c_while_a_stream_closes_still_waits_for_its_thread(tiny, monkeypatch):
    presses = [KeyboardInterrupt, KeyboardInterrupt]
    join = threading.Thread.join

    def pressed(thread, timeout=None):
        if thread.name == "slimsweep-stream" and presses:
            raise presses.pop()
        join(thread, timeout)

    def press_and_think(*_):  # Ctrl-C while the forward of the second token runs
        forwards.append(1)
        if len(forwards) == 1:
            return
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)

    forwards = []
    tiny.module.register_forward_pre_hook(press_and_think)
    monkeypatch.setattr(threading.Thread, "join", pressed)
    with pytest.raises(KeyboardInterrupt):
        list(stream(tiny, [5, 6, 7], Decoding(max_new_tokens=9)))
    assert not presses and not threads()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(tiny, temperature, broken):
    forwards = []

    def spoil(module, arguments, output):
        forwards.append(1)
        output.logits[..., 3] = broken if len(forwards) == 3 else 0
        return output

    tiny.module.register_forward_hook(spoil)
    tokens = stream(tiny, [5, 6, 7], Decoding(max_new_tokens=9, temperature=temperature))
    next(tokens), next(tokens)
    with pytest.raises(ModelError, match="not finite"):
        next(tokens)
    assert not threads()


def test_a_token_that_is_forbidden_by_minus_infinity_is_no_fault(tiny):
    tiny.module.generation_config.suppress_tokens = [3]
    assert len(list(stream(tiny, [5, 6, 7], Decoding(max_new_tokens=2)))) == 2
