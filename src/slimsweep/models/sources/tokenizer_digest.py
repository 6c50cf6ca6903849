"""Digest of what decides how a tokenizer splits text."""

import hashlib
import weakref
from typing import Any

_tokenizer_digests: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over everything that decides how a tokenizer splits text."""
    if tokenizer not in _tokenizer_digests:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            content = backend.to_str()
        else:
            content = repr(
                (type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), str(tokenizer.init_kwargs))
            )
        _tokenizer_digests[tokenizer] = hashlib.sha256(content.encode()).hexdigest()
    return _tokenizer_digests[tokenizer]
