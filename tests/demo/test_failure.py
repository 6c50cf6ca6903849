"""Sentences on errors that end an answer, or loading."""

import errno

import pytest
import torch

from slimsweep.demo.failure import ADVICE, is_lack_of_memory, loading, sentence
from slimsweep.errors import DemoError, StageError


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


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "(MemoryError)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "(OSError: [Errno 12] Cannot allocate memory)"),
        (caused(StageError("stage wanda: no room"), MemoryError()), "(StageError: stage wanda: no room)"),
    ],
)
def test_a_lack_of_memory_while_loading_names_the_model(error, said):
    with pytest.raises(DemoError, match="out of memory while tiny dense was loaded") as told, loading("tiny dense"):
        raise error
    assert said in str(told.value) and told.value.__cause__ is error


def test_other_errors_while_loading_stay_as_they_are():
    with pytest.raises(StageError, match="no such layer"), loading("tiny dense"):
        raise StageError("no such layer")
