"""Feature columns of a text: counts of characters, words, sentences and tokens, and the type-token ratio."""

import re
from collections.abc import Callable
from typing import Any

from slimsweep.data.preparation.dataset import Dataset

WORD = re.compile(r"[^\W_]+(?:['\u2019.,-][^\W_]+)*")
"""Letters and digits; an apostrophe, hyphen, point or comma inside a word belongs to it (don't, 3.14)."""
SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]+[\"'\u201d\u2019)\]]*(?=\s|$)|\n\s*\n")


def text_features(text: str) -> dict[str, Any]:
    """Characters, words, sentences, and distinct words by words; an empty text has a ratio of 0.

    A sentence ends at `.`, `!` or `?` before a space, at a blank line, or at the end of the text.
    """
    words = WORD.findall(text.lower())
    sentences = sum(1 for part in SENTENCE_END.split(text) if WORD.search(part))
    return {
        "chars": len(text),
        "words": len(words),
        "sentences": sentences,
        "type_token_ratio": round(len(set(words)) / len(words), 6) if words else 0.0,
    }


def row_text(row: dict[str, Any], dataset: Dataset) -> str:
    """The text of a row that is no pair: its text, all turns, or question and answer."""
    if dataset.kind == "conversations":
        return "\n".join(turn["content"] for turn in row["messages"])
    if dataset.kind == "problems":
        return f"{row['question']}\n{row['answer']}"
    return row["text"]


def row_features(
    row: dict[str, Any], dataset: Dataset, token_count: Callable[[str], int] | None = None
) -> dict[str, Any]:
    """Feature columns of a row.

    Args:
        token_count: number of tokens of a text; None leaves that column out.
    """

    def features(text: str) -> dict[str, Any]:
        return text_features(text) | ({"tokens": token_count(text)} if token_count else {})

    if dataset.kind != "pairs":
        return features(row_text(row, dataset))
    sides = {side: features(row[side]) for side in dataset.standard_columns}
    columns = {f"{side}_{name}": value for side, values in sides.items() for name, value in values.items()}
    # Words of the target for each word of the source; one that has no word counts as one.
    ratio = sides["target"]["words"] / max(1, sides["source"]["words"])
    return columns | {"length_ratio": round(ratio, 6)}


def is_within(features: dict[str, Any], name: str, least: int | float | None, most: int | float | None) -> bool:
    """Whether a feature lies in a range; both ends belong to it, None leaves one open."""
    value = features[name]
    return (least is None or value >= least) and (most is None or value <= most)
