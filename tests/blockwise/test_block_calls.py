import pytest
import torch
from small_stacks import encoder_decoder, pairs
from transformers.cache_utils import Cache

from slimsweep.blockwise import block_calls
from slimsweep.models.batches import text_batch


@pytest.fixture
def tiny(tiny_source):
    return tiny_source.load(torch.float32, torch.device("cpu"))


@pytest.fixture
def token_ids():
    return torch.randint(258, (5, 32), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_blocks_run_alone_on_what_was_recorded_as_in_the_model(tiny, token_ids):
    hidden, calls = block_calls.record_calls(tiny, text_batch(token_ids), range(2))
    assert torch.equal(hidden, tiny.module.get_input_embeddings()(token_ids))
    for block, call in zip(tiny.blocks, calls, strict=True):
        args, kwargs = call.filled((), 1)
        hidden = block(hidden, *args, **kwargs)
    torch.testing.assert_close(tiny.module.model.norm(hidden), tiny.hidden_states(text_batch(token_ids)))


@torch.no_grad()
def test_no_cache_of_keys_is_recorded(tiny, token_ids):
    for call in block_calls.record_calls(tiny, text_batch(token_ids[:1]), range(2))[1]:
        assert not any(isinstance(value, Cache) for value in (*call.args, *call.kwargs.values()))


@torch.no_grad()
def test_later_blocks_begin_with_what_they_are_said_to_be_given(tiny, token_ids):
    before = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(1))
    forwards = [block.forward for block in tiny.blocks]
    hidden, (call,) = block_calls.record_calls(tiny, text_batch(token_ids), range(1, 2), before)
    assert torch.equal(hidden, before) and call.handed == {}
    assert [block.forward for block in tiny.blocks] == forwards


@torch.no_grad()
def test_what_a_block_hands_on_is_no_argument_of_its_own(tmp_path):
    """T5: the first block of a stack makes the position bias, and the next is given it."""
    model, batch = encoder_decoder("t5", tmp_path), pairs()
    hidden, calls = block_calls.record_calls(model, batch, range(2))
    assert [call.handed for call in calls] == [{}, {1: 0}]
    output = model.blocks[0](hidden, *calls[0].filled((), 1)[0], **calls[0].kwargs)
    args, _ = calls[1].filled(block_calls.tail_of(output), 1)
    assert args[1] is output[1] and args[1].shape == (1, 2, 9, 9)
