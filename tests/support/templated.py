"""Tokenizers whose template puts special tokens around a text."""

import copy
from typing import Any


def with_template(tokenizer: Any, template: str) -> Any:
    """A copy of the byte tokenizer whose template puts special tokens around a text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tokenizer)
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    return tokenizer
