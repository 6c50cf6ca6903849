"""Hints for a mistyped name: the nearest known ones."""

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """Up to three known names, the most alike first; none where nothing is alike."""
    return difflib.get_close_matches(given, list(known), n=3, cutoff=0.5)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`Did you mean: wanda?`; empty where no known name is near."""
    near = nearest(given, known)
    return f"Did you mean: {' or '.join(near)}?" if near else ""


def allowed_names(given: str, known: Iterable[str], title: str = "Allowed") -> str:
    """The nearest names, then all of them: `Did you mean: wanda? Allowed: magnitude, wanda`."""
    known = sorted(known)
    return f"{did_you_mean(given, known)} {title}: {', '.join(known)}".lstrip()
