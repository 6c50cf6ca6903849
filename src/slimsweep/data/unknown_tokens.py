"""Token ids that a model has no embedding for, found in texts before a job starts.

A tokenizer may know more tokens than its model: marks of a chat were added to it and the model was never resized. A
text with such a token ends in an index error in the middle of a forward; a text without them runs as ever.
"""

import weakref
from collections.abc import Iterable
from typing import Any

from jaxtyping import Int
from torch import Tensor

_highest_ids: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def ids_fault(what: str, token_ids: Int[Tensor, " token"], tokenizer: Any, embeddings: int) -> str | None:
    """Sentence on the first id in `token_ids` that is beyond the embeddings; None where there is none."""
    unknown = token_ids[token_ids >= embeddings]
    return _sentence(what, int(unknown[0]), tokenizer, embeddings) if len(unknown) else None


def texts_fault(what: str, texts: Iterable[str], tokenizer: Any, embeddings: int) -> str | None:
    """The same for texts that are tokenised one by one; they are tokenised only where the tokenizer has such ids."""
    if _highest_id(tokenizer) < embeddings:
        return None
    added = tokenizer.added_tokens_decoder
    unknown = [token_id for token_id in tokenizer.get_vocab().values() if token_id >= embeddings]
    # Added tokens that are not normalised stand in a text as they are, and a search for them is faster.
    is_verbatim = all(token_id in added and not added[token_id].normalized for token_id in unknown)
    marks = [added[token_id].content for token_id in unknown] if is_verbatim else [""]
    for text in ("", *(text for text in texts if any(mark in text for mark in marks))):
        for token_id in tokenizer(text, verbose=False)["input_ids"]:
            if token_id >= embeddings:
                return _sentence(what, token_id, tokenizer, embeddings)
    return None


def _highest_id(tokenizer: Any) -> int:
    if tokenizer not in _highest_ids:
        _highest_ids[tokenizer] = max(tokenizer.get_vocab().values(), default=-1)
    return _highest_ids[tokenizer]


def _sentence(what: str, token_id: int, tokenizer: Any, embeddings: int) -> str:
    highest = max(_highest_id(tokenizer), token_id)
    return (
        f"{what} holds {tokenizer.convert_ids_to_tokens(token_id)!r} (id {token_id}), for which the model has no "
        f"embedding: the tokenizer has ids up to {highest}, the model has embeddings for {embeddings}. Take a text "
        "without such tokens, the tokenizer that the model was trained with, or a model with more embeddings: "
        f"model.resize_token_embeddings({highest + 1}), trained on and saved with save_pretrained(FOLDER)"
    )
