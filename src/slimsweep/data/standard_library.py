"""Python code that every machine has: the interpreter's own standard library, split by file."""

import functools
import hashlib
import platform
import random
import sysconfig
from pathlib import Path
from typing import Any

from slimsweep.errors import CorpusError

PARTS = ("code", "held_out_code", "next_lines")
LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "ensurepip", "__pycache__"}
"""Folders without code that people write: tests, bundled packages, tools for older versions."""
HELD_OUT = 5
"""One file in so many is for measuring."""
CONTEXT_LINES = 12
SHORTEST_LINE = 16
"""Characters of a line that is worth guessing."""
QUESTIONS_PER_FILE = 4
CHOICES = 4


@functools.cache
def rows(part: str) -> tuple[dict[str, Any], ...]:
    """One part, in the order of the SHA-256 of the files.

    `code` and `held_out_code` have one file a row (`{"text"}`), without a file in common. `next_lines` are questions on
    held-out files: `{"context", "choices", "answer"}`, where one of four lines is the one that follows.

    Raises:
        CorpusError: the interpreter was installed without its sources.
    """
    chosen = [text for digest, text in _files() if (digest[-1] % HELD_OUT == 0) == (part != "code")]
    if part == "next_lines":
        return tuple(question for text in chosen for question in questions(text))
    return tuple({"text": text} for text in chosen)


def origin() -> str:
    """The library and its version."""
    return f"standard library of Python {platform.python_version()}"


@functools.cache
def _files() -> tuple[tuple[bytes, str], ...]:
    """Distinct sources with their SHA-256, sorted by it."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for path in sorted(folder.rglob("*.py")):
        if not LEFT_OUT & set(path.relative_to(folder).parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                found[hashlib.sha256(text.encode()).digest()] = text
    if not found:
        raise CorpusError(f"{folder} holds no .py file: this interpreter has no sources of its standard library")
    return tuple(sorted(found.items()))


def questions(text: str) -> list[dict[str, Any]]:
    """Questions on a file: which of four lines of equal indentation follows. Drawn by the file's own content."""
    chance = random.Random(hashlib.sha256(text.encode()).digest())
    lines = text.splitlines()
    places = [place for place, line in enumerate(lines) if place >= CONTEXT_LINES and _is_worth_guessing(line)]
    chance.shuffle(places)
    found = []
    for place in places:
        line = lines[place]
        others = sorted({lines[other] for other in places if _indent(lines[other]) == _indent(line)} - {line})
        if len(others) < CHOICES - 1:
            continue
        choices = [line, *chance.sample(others, CHOICES - 1)]
        chance.shuffle(choices)
        context = "\n".join(lines[place - CONTEXT_LINES : place]) + "\n"
        found.append({"context": context, "choices": choices, "answer": choices.index(line)})
        if len(found) == QUESTIONS_PER_FILE:
            break
    return found


def _is_worth_guessing(line: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= SHORTEST_LINE and not stripped.startswith(("#", '"', "'"))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
