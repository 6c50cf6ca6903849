from slimsweep.models.sources.tokenizer_digest import tokenizer_digest


def test_tokenizers_that_split_alike_share_a_digest(tiny_source, stories260k_source):
    from slimsweep.models.sources.byte_tokenizer import byte_tokenizer

    own, other = tokenizer_digest(tiny_source.tokenizer()), tokenizer_digest(stories260k_source.tokenizer())
    assert own != other
    assert tokenizer_digest(byte_tokenizer()) == own
