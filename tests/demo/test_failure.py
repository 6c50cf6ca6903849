"""Sentences on errors that end an answer."""

import pytest
import torch

from slimsweep.demo.failure import ADVICE, is_lack_of_memory, sentence


def raised(function):
    """The error that a function raises."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_class_and_the_message_are_shown_in_one_line():
    assert sentence(KeyError("layer")) == "KeyError: 'layer'"
    assert sentence(ValueError("a shape\n  of [3, 4].")) == "ValueError: a shape of [3, 4]"
    assert sentence(AssertionError()) == "AssertionError"
    assert sentence(MemoryError()) == f"out of memory (MemoryError). {ADVICE}"


def test_a_lack_of_memory_is_named_whoever_tells_it():
    real = raised(lambda: torch.empty(2**55, dtype=torch.uint8))  # more than any machine has
    assert type(real) is RuntimeError and sentence(real).startswith("out of memory (RuntimeError: ")
    assert is_lack_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_other_errors_are_no_lack_of_memory(error):
    assert not is_lack_of_memory(error)
