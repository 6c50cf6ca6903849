import pytest

from slimsweep.data.preparation.cleaning import STEPS, comparable
from slimsweep.data.preparation.dataset import CLEANING, NORMALISATION


@pytest.mark.parametrize(
    ("step", "given", "expected"),
    [
        ("encoding", "clichÃ© â€™ ok", "cliché \u2019 ok"),  # UTF-8 that was read as Windows-1252
        ("encoding", "\ufeffa\x00b\r\nc", "ab\nc"),
        ("encoding", "Müller straße 日本", "Müller straße 日本"),
        ("unicode", "e\u0301", "é"),
        ("markup", "A<br /><br />b <b>bold</b> &amp; <a href='x'>link</a>", "A\n\nb bold & link"),
        ("markup", "<script>var x = 1;</script>text<!-- note -->", "text"),
        ("markup", "<unk> of a < b and c > d, <<48/2=24>>24", "<unk> of a < b and c > d, <<48/2=24>>24"),
        ("whitespace", "  a \u00a0 b\t c  \r\n\n\n\nd\u200be ", "a b c\n\nde"),
        ("whitespace", "def f():\n    return 1", "def f():\n    return 1"),
        ("compatibility", "\ufb01ne \uff21", "fine A"),
        ("punctuation", "\u201cit\u2019s\u201d \u2013 so\u2026", '"it\'s" - so...'),
        ("joints", "role @-@ playing , 1 @,@ 000", "role-playing , 1,000"),
        ("lowercase", "Ab", "ab"),
    ],
)
def test_a_step_changes_what_it_must_and_nothing_else(step, given, expected):
    assert STEPS[step](given) == expected
    assert STEPS[step](expected) == expected


def test_every_step_of_a_dataset_exists():
    assert set(STEPS) == {*CLEANING, *NORMALISATION}


def test_texts_are_compared_without_case_width_and_spaces():
    assert comparable(" \uff34wo\n WORDS ") == comparable("two words")
    assert comparable("two words.") != comparable("two words")
