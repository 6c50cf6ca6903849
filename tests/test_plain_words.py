"""Docstrings begin with a noun of the field or with a verb, never with a word that makes a riddle of the first line."""

import ast
from pathlib import Path

import pytest
from conftest import PROJECT

PACKAGE = PROJECT / "src" / "slimsweep"
RIDDLES = ("What", "Which", "How", "Where", "Whose", "Why", "Of", "By", "As")
"""First words that STYLE's section on plain words rules out."""


def riddles(file: Path) -> list[str]:
    """First lines of docstrings, those below fields and constants too, that begin with such a word."""
    lines = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for statement in getattr(node, "body", None) or [] if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text and isinstance(statement.value.value, str):
                first = statement.value.value.strip().partition("\n")[0]
                if first.split(" ")[0].rstrip(",:;") in RIDDLES:
                    lines.append(f"{statement.lineno}: {first}")
    return lines


FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_docstring_begins_with_a_riddle(name):
    assert not riddles(FILES[name]), "begin with a noun of the field or with a verb"


def test_a_riddle_is_seen_wherever_it_stands(tmp_path):
    text = '"""Noun."""\nX = 1\n"""What x is."""\ndef f():\n    """By hand.\n\n    How: so."""\n'
    text += 'class C:\n    """As told."""\n'
    text += '    y: int = 1\n    """Whose y."""\n    def g(self):\n        """Bytes of y."""\n'
    (tmp_path / "x.py").write_text(text)
    assert [line.partition(": ")[2] for line in riddles(tmp_path / "x.py")] == [
        *("What x is.", "By hand.", "As told.", "Whose y.")
    ]
