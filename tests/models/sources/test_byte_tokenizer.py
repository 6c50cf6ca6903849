import pytest

from slimsweep.models.sources.byte_tokenizer import VOCABULARY, byte_tokenizer


@pytest.mark.parametrize("text", ["abc", " two  spaces\n\n", "héllo 日本", "<unk> & tabs\t"])
def test_text_becomes_one_id_per_byte_and_back(text):
    tokenizer = byte_tokenizer()
    token_ids = tokenizer(text).input_ids
    assert len(token_ids) == len(text.encode())
    assert tokenizer.decode(token_ids) == text


def test_vocabulary_is_bytes_and_two_marks():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == VOCABULARY
    assert {tokenizer.bos_token_id, tokenizer.eos_token_id} == {256, 257}
