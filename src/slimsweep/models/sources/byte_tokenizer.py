"""A tokenizer for models with random weights: one id per byte, nothing to download."""

from typing import Any

VOCABULARY = 258
"""256 bytes, beginning and end of text."""


def byte_tokenizer() -> Any:
    """Ids 0..255 are the bytes of the UTF-8 text in the order of GPT-2's byte alphabet; then <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
