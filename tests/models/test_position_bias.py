import pytest
import torch
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from slimsweep.models.position_bias import SelectsHeads, give_table, keep_heads

WIDTH = 4
"""Of a head."""


def attention(has_table: bool = True, seed: int = 0) -> T5Attention:
    """Attention of four heads, with a table of biases where it is the first of its stack."""
    torch.manual_seed(seed)
    config = T5Config(d_model=16, d_kv=WIDTH, num_heads=4, relative_attention_num_buckets=8, dropout_rate=0.0)
    made = T5Attention(config, has_relative_attention_bias=has_table, layer_idx=0).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_()
    return made


def without_heads(made: T5Attention, kept: list[int]) -> T5Attention:
    """The same attention with its rows and columns of some heads only."""
    rows = torch.cat([torch.arange(head * WIDTH, (head + 1) * WIDTH) for head in kept])
    before = made.n_heads
    for name in "qkv":
        layer = getattr(made, name)
        layer.weight = torch.nn.Parameter(layer.weight[rows], requires_grad=False)
    made.o.weight = torch.nn.Parameter(made.o.weight[:, rows], requires_grad=False)
    made.n_heads, made.inner_dim = len(kept), len(rows)
    keep_heads(made, kept, before)
    return made


def masked(made: T5Attention, kept: list[int]) -> T5Attention:
    """The same attention whose output reads zeros of the other heads."""
    for head in set(range(made.n_heads)) - set(kept):
        made.o.weight[:, head * WIDTH : (head + 1) * WIDTH] = 0
    return made


HIDDEN = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kept", [[0, 2], [3], [0, 1, 2, 3]])
def test_the_heads_that_stay_read_their_columns_of_the_table(kept):
    expected, bias, *_ = masked(attention(), kept)(HIDDEN)
    output, handed_on, *_ = without_heads(attention(), kept)(HIDDEN)
    torch.testing.assert_close(output, expected)
    assert handed_on.equal(bias)  # of all heads, for the next block


def test_heads_removed_twice_are_counted_by_the_dense_models_columns():
    twice = without_heads(without_heads(attention(), [0, 2, 3]), [1, 2])
    assert twice.kept_heads.tolist() == [2, 3]
    torch.testing.assert_close(twice(HIDDEN)[0], masked(attention(), [2, 3])(HIDDEN)[0])


def test_a_later_block_selects_from_the_bias_that_it_is_handed():
    bias = attention()(HIDDEN)[1]
    expected = masked(attention(has_table=False, seed=2), [1, 2])(HIDDEN, position_bias=bias)
    output = without_heads(attention(has_table=False, seed=2), [1, 2])(HIDDEN, position_bias=bias)
    torch.testing.assert_close(output[0], expected[0])
    assert output[1] is bias


def test_a_table_moves_to_the_block_that_is_first_now():
    former, first = attention(), attention(has_table=False, seed=2)
    give_table(former, first)
    assert first.has_relative_attention_bias
    assert first(HIDDEN)[1].equal(former(HIDDEN)[1])


def test_the_class_keeps_its_name():
    made = without_heads(attention(), [0])
    assert isinstance(made, SelectsHeads) and isinstance(made, T5Attention)
    assert type(made).__name__ == "T5Attention"
