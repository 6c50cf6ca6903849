from slimsweep.data import standard_library
from slimsweep.data.standard_library import CHOICES, CONTEXT_LINES, questions, rows


def test_the_parts_have_no_file_in_common_and_no_tests():
    code, held_out = ({row["text"] for row in rows(part)} for part in ("code", "held_out_code"))
    assert len(code) > 2 * len(held_out) > 100 and not code & held_out
    assert not any("import unittest" in text.splitlines()[:3] for text in code)
    assert standard_library.origin().startswith("standard library of Python 3.")


def test_questions_have_one_right_line_among_lines_of_equal_indentation():
    asked = rows("next_lines")
    held_out = [row["text"] for row in rows("held_out_code")]
    assert len(asked) > 100
    for question in asked[:40]:
        right = question["choices"][question["answer"]]
        assert len(set(question["choices"])) == CHOICES
        assert len({len(line) - len(line.lstrip()) for line in question["choices"]}) == 1
        assert any(question["context"] + right in text for text in held_out)
        assert question["context"].count("\n") == CONTEXT_LINES
    assert 0.15 < sum(one["answer"] == 0 for one in asked) / len(asked) < 0.35


def test_questions_depend_on_the_file_alone():
    text = "\n".join(f"    value_{n} = compute({n}, {n * 7})" for n in range(40))
    assert questions(text) == questions(text) and len(questions(text)) == 4
    assert questions("x = 1\n") == []
