from slimsweep.data.drawn_bytes import DrawnBytes
from slimsweep.models.batch_sizes import BATCH_TOKENS


def drawn(count: int, tokens: int) -> DrawnBytes:
    class Drawn(DrawnBytes):
        sequences, longest_tokens = count, tokens

    return Drawn()


def test_a_forward_takes_one_batch_or_all_sequences():
    short = drawn(10, BATCH_TOKENS // 4)
    assert short.hidden_bytes(2) == 10 * BATCH_TOKENS // 4 * 2 == short.working_bytes(2, is_whole=True)
    assert short.working_bytes(2, is_whole=False) == 2 * BATCH_TOKENS
    assert drawn(2, 3 * BATCH_TOKENS).working_bytes(1, is_whole=False) == 3 * BATCH_TOKENS
    assert drawn(1, 5).working_bytes(1, is_whole=False) == 5
