"""Panels of answers as HTML."""

import re
from html import unescape

import pytest

from slimsweep.demo.answer import Answer
from slimsweep.demo.lineup import LoadedModel
from slimsweep.demo.markup import panels
from slimsweep.models.generation import Decoding


@pytest.fixture
def models(tiny):
    return [
        LoadedModel("dense", "a" * 64, tiny, 269_000_000, 330_000_000),
        LoadedModel("<b>rtn</b>", "b" * 64, tiny, 114_000_000, None, "<weights rest> in a file"),
    ]


@pytest.fixture
def written(tiny):
    """An answer of given text, done or not."""

    def answer(text, is_done=True, ends=False):
        one = Answer(tiny, [1], Decoding())
        one.token_ids = tiny.tokenizer(text)["input_ids"] + [tiny.tokenizer.eos_token_id] * ends
        one.is_done = is_done
        return one

    return answer


def words(html):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def test_sizes_stand_there_before_there_is_an_answer(models):
    html = panels(models, [])
    assert "<b>rtn" not in html and "&lt;b&gt;rtn" in html
    assert "269 MB" in html and "114 MB" in html and "42% of dense" in html and "&lt;weights rest&gt; in a file" in html
    assert html.count("waits for a prompt") == 2 and "bbbbbbbb<" in html


def test_the_token_where_an_answer_parts_is_marked_and_told(models, written):
    html = panels(models, [written("a day"), written("a <ay")])
    assert "a <mark>&lt;</mark>ay" in html
    assert "Parts from dense at token 3: 'd' there, '<' here." in words(html).replace(" :", ":")


def test_an_end_and_a_line_break_are_marked_by_a_sign(models, written):
    assert "<mark>&#8718;</mark>" in panels(models, [written("ab"), written("a", ends=True)])
    assert "<mark>&#9166;\n</mark>b" in panels(models, [written("aab"), written("a\nb")])


def test_equal_answers_say_so(models, written):
    assert "All 2 tokens are those of dense" in panels(models, [written("ab"), written("ab")])
    assert "So far as dense" in panels(models, [written("ab", is_done=False), written("ab")])
    html = panels(models, [written("ab", ends=True), written("ac")])
    assert "ended by itself" in html and ">cut<" in html


def test_drawn_answers_are_not_compared(models, written):
    html = panels(models, [written("ab"), written("ac")], is_drawn=True)
    assert "<mark>" not in html and "Parts from" not in html


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("a b cd", "a😀b cd"),
        ("a😀b cd", "a😁b cd"),  # they part inside the character
        ("a😀b cd", "ab cd"),
        ("aé", "aè"),
        ("ab😀", "ab"),
        ("xyz", "😀"),
    ],
)
@pytest.mark.parametrize("is_done", [True, False])
def test_no_character_is_lost_where_answers_part_inside_one(models, written, there, here, is_done):
    for cut in range(1, len(written(here).token_ids) + 1):
        answer = written(here, is_done=is_done)
        answer.token_ids = answer.token_ids[:cut]
        marked = panels(models, [written(there), answer])
        shown = re.findall(r'<div class="text">(.*?)</div>', marked, re.DOTALL)[1]
        assert unescape(re.sub(r"&#8718;|<[^>]*>", "", shown)).strip("\xa0") == answer.text
    assert "<mark>" in marked or there.startswith(here)


def test_a_character_in_several_tokens_is_marked_whole(models, written):
    assert "a<mark>😁</mark>b cd" in panels(models, [written("a😀b cd"), written("a😁b cd")])


def test_a_broken_model_says_so_in_its_panel(models, written):
    broken = written("")
    broken.fault = "its <logits>"
    html = panels(models, [written("ab"), broken])
    assert "rtn&lt;/b&gt;</b> cannot go on: its &lt;logits&gt;." in html and ">broken<" in html and ">cut<" in html
    broken.is_failed = True
    assert ">failed<" in panels(models, [written("ab"), broken])
    assert "All 2 tokens" not in panels(models, [broken, written("ab")])
    assert "Not compared: dense cannot go on" in panels(models, [broken, written("ab")])
